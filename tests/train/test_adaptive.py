"""``reload=adaptive`` as pure functions, and in simulated runs against intervals and foresight."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config.schema import ConfigError
from lab.config.units import MB
from lab.protocol import RUNGS, Rung
from lab.records.growth import Trend
from lab.train.adaptive import KEEPING_STATE, Limits, decide, learn
from lab.train.ladder import SETTLED, Cycle, Growth, Ladder, Observation, Yield
from lab.train.progress import Progress
from tests.train.simulated import Kind, Simulated, at_interval, foreseen

TREND = Trend(1.0 * MB, 1)
LIMITS = Limits(budget=150 * MB, max_overhead=0.01)


def seen(megabytes: float, *, headroom: float = 0, cache: float = 40) -> Observation:
    memory = round(megabytes * MB)
    return Observation(memory, memory // 2, round(cache * MB), round(headroom * MB), 0.03)


def settled(megabytes: float) -> Cycle:
    """The cycle of a process that has filled what it works with."""
    cycle = Cycle.of(seen(megabytes))
    while cycle.steps < SETTLED:
        cycle = cycle.add(seen(megabytes))
    return cycle


def knowing(**shares: float) -> Ladder:
    """A ladder on which these rungs were tried for the growth of ``TREND``."""
    costs = {"clear_cache": 0.002, "collect": 0.05, "reload_in_process": 0.3, "reload_process": 1.0}
    rungs = {rung: Yield(share, costs[rung]) for rung, share in shares.items()}
    return Ladder(growth=Growth(1.0 * MB, 0.0, 0.5), rungs=rungs)


NOTHING = {"clear_cache": 0.0, "collect": 0.0, "reload_in_process": 0.0}


@pytest.mark.parametrize(
    ("ladder", "memory", "rung"),
    [
        # Nothing known: four rungs to try, so four steps ahead; without much of a cache, three.
        (Ladder(), 146, None),
        (Ladder(), 146.1, "clear_cache"),
        (knowing(clear_cache=0.0), 147, None),
        (knowing(clear_cache=0.0), 147.1, "collect"),
        (knowing(clear_cache=0.0, collect=0.0), 148.1, "reload_in_process"),
        (knowing(**NOTHING), 149, None),
        (knowing(**NOTHING), 149.1, "reload_process"),
        # What works is known: the last step that fits.
        (knowing(clear_cache=1.0), 149, None),
        (knowing(clear_cache=0.8), 149.1, "clear_cache"),
        (knowing(clear_cache=0.0, collect=1.0), 149.1, "collect"),
        (knowing(clear_cache=0.0, collect=0.0, reload_in_process=1.0), 149.1, "reload_in_process"),
        # A part: taken while it is worth its time, not where it buys less than a step.
        (knowing(clear_cache=0.1, collect=0.0, reload_in_process=1.0), 149.1, "clear_cache"),
        (knowing(clear_cache=0.01, collect=0.0, reload_in_process=1.0), 149.1, "reload_in_process"),
        (knowing(clear_cache=0.0, collect=0.1, reload_in_process=1.0), 149.1, "reload_in_process"),
        # Nothing works, or nothing brings it below the budget: the supervisor's business.
        (knowing(**NOTHING, reload_process=0.0), 149.9, None),
        (knowing(**NOTHING), 260, "reload_process"),
    ],
)
def test_the_rung_and_the_step(ladder: Ladder, memory: float, rung: Rung | None) -> None:
    cycle = Cycle.of(seen(100)).add(seen(memory))
    assert decide(ladder, cycle, seen(memory), TREND, LIMITS).rung == rung


def test_what_a_step_takes_while_it_runs_counts() -> None:
    ladder, now = knowing(**NOTHING), seen(139.1, headroom=10)
    assert decide(ladder, Cycle.of(seen(100)).add(now), now, TREND, LIMITS).rung == "reload_process"
    now = replace(now, headroom=0)
    assert decide(ladder, Cycle.of(seen(100)).add(now), now, TREND, LIMITS).rung is None


def test_a_step_and_a_save_take_theirs_one_after_the_other() -> None:
    limits, ladder = replace(LIMITS, saving=4 * MB), knowing(**NOTHING)
    for headroom, memory, rung in [
        (3, 145, None),
        (3, 145.1, "reload_process"),
        (5, 144, None),
        (5, 144.1, "reload_process"),
    ]:
        now = seen(memory, headroom=headroom)
        assert decide(ladder, Cycle.of(seen(100)).add(now), now, TREND, limits).rung == rung


@pytest.mark.parametrize(
    ("memory", "lump", "rung"),
    [
        ([100, 100, 110, 110, 120, 120], 0, None),
        ([100, 100, 110, 110, 120, 120, 130, 130, 140, 140], 10, None),
        ([100, 100, 110, 110, 120, 120, 130, 130, 140.1, 140.1], 10.2, "reload_process"),
        # Lumps that grow; a single rise is none, nor is a return.
        ([100, 100, 108, 108, 117, 117, 127, 127, 137, 137, 137.9], 11, None),
        ([100, 131, 132, 133, 134, 135, 136, 148], 1, None),
        ([100, 100, 140, 120, 140, 120, 140, 120, 140, 140], 0, None),
    ],
)
def test_what_rises_in_lumps_is_due_a_lump_before_the_budget(
    memory: list[float], lump: float, rung: Rung | None
) -> None:
    cycle = settled(memory[0])
    for reading in memory[1:]:
        cycle = cycle.add(seen(reading))
    assert cycle.lump == pytest.approx(lump * MB, abs=0.01 * MB)
    cycle = replace(cycle, changes=())  # without what noise makes of so few steps
    assert decide(knowing(**NOTHING), cycle, seen(memory[-1]), TREND, LIMITS).rung == rung


def test_how_a_process_or_a_reload_in_it_fills_up_is_no_lump() -> None:
    filling = Cycle.of(seen(60))
    for step in range(2, SETTLED + 1):
        filling = filling.add(seen(60 + 5 * step))
    assert filling.lump == 0
    known = knowing(clear_cache=0.0, collect=0.0, reload_in_process=1.0)
    _, refilling = learn(known, filling, "reload_in_process", seen(130), 0.1, after=seen(60))
    for step in range(2, SETTLED + 1):
        refilling = refilling.add(seen(60 + 5 * step))
    assert refilling.lump == 0


def test_lumps_are_known_until_the_process_ends() -> None:
    before = settled(100)
    for lump in range(1, 5):
        before = before.add(seen(100 + 8 * lump))
    assert before.lump == 8 * MB
    for rung, lump in (("clear_cache", 8 * MB), ("reload_process", 0)):
        args = (before, rung, seen(132), 0.1)
        assert learn(knowing(**NOTHING), *args, after=seen(100))[1].lump == lump


def test_what_a_reload_takes_itself_counts() -> None:
    limits = replace(LIMITS, saving=1 * MB, failing=3 * MB)
    untried = knowing(clear_cache=0.0, collect=0.0)
    cases = [
        (knowing(**NOTHING), 148, None),
        (knowing(**NOTHING), 148.1, "reload_process"),
        (untried, 144, None),
        (untried, 144.1, "reload_in_process"),
        (knowing(clear_cache=0.0, collect=1.0), 149, None),
    ]
    for ladder, memory, rung in cases:
        cycle = Cycle.of(seen(100)).add(seen(memory))
        assert decide(ladder, cycle, seen(memory), TREND, limits).rung == rung


def test_noise_is_kept_away_from_the_budget() -> None:
    ladder = replace(knowing(**NOTHING), growth=Growth(1.0 * MB, 0.5 * MB, 0.5))
    for memory, rung in ((147, None), (147.1, "reload_process")):
        cycle = Cycle.of(seen(100)).add(seen(memory))  # too short to tell: that of the last growth
        assert decide(ladder, cycle, seen(memory), TREND, LIMITS).rung == rung


@pytest.mark.parametrize("event", [0, -150, 150])
def test_noise_is_told_from_the_readings_but_for_single_events(event: float) -> None:
    chance, cycle = Random(0), Cycle.of(seen(500))
    for step in range(100):
        level = 500 + step + event * (step > 60)
        cycle = cycle.add(seen(level + chance.gauss(0, 0.3)))
    assert cycle.noise == pytest.approx(0.3 * MB, rel=0.2)


def test_a_cache_that_holds_little_is_not_cleared() -> None:
    now = seen(149.9, cache=0.5)
    assert decide(Ladder(), Cycle.of(now), now, TREND, LIMITS).rung is None
    cycle = Cycle.of(seen(100)).add(now)
    assert decide(Ladder(), cycle, now, TREND, LIMITS).rung == "collect"


@pytest.mark.parametrize(
    ("trend", "active", "tried_again"),
    [
        (Trend(1.5 * MB, 1), 0.5, False),
        (Trend(2.5 * MB, 1), 0.5, True),
        (Trend(0.4 * MB, 1), 0.5, True),
        (TREND, 0.9, False),
        (TREND, 1.1, True),
    ],
)
def test_another_growth_may_have_another_remedy(
    trend: Trend, active: float, tried_again: bool
) -> None:
    first = seen(100)
    now = replace(seen(149.9), active=first.active + round(active * 49.9 * MB))
    found = decide(knowing(**NOTHING), Cycle.of(first).add(now), now, trend, LIMITS)
    assert found.rung == ("clear_cache" if tried_again else "reload_process")


@pytest.mark.parametrize("kind", RUNGS)
def test_nothing_cheaper_than_what_a_census_found_is_tried(kind: Rung) -> None:
    run = only(kind, steps=200, foreseen=kind).run()
    assert {rung for _, rung in run.taken} == {kind}
    assert run.peak <= run.budget
    assert len(run.reloads()) <= len(only(kind, steps=200).run().reloads())


def test_a_census_that_is_wrong_costs_one_remedy() -> None:
    for wrong in ("collect", "reload_in_process"):
        run = only("reload_process", steps=200, foreseen=wrong).run()
        assert run.taken[0][1] == wrong
        assert run.peak <= run.budget
        tried = Counter(rung for _, rung in run.taken if rung != "reload_process")
        assert set(tried.values()) == {1}
    fails = replace(knowing(reload_process=0.0), foreseen="reload_process")
    now = seen(149.9)
    assert decide(fails, Cycle.of(seen(100)).add(now), now, TREND, LIMITS).rung == "clear_cache"


def test_what_a_census_found_is_no_longer_true_for_another_growth() -> None:
    ladder = replace(knowing(**NOTHING), foreseen="reload_process")
    cycle, now = Cycle.of(seen(100)).add(seen(148)), seen(148)
    another = decide(ladder, cycle, now, Trend(4.0 * MB, 1), LIMITS)
    assert another.rung == "clear_cache"
    assert another.ladder.foreseen is None


def test_what_gives_nothing_back_is_remembered_and_what_gives_a_part_too() -> None:
    ladder = Ladder(growth=Growth(1.0 * MB, 0.0, 0.5))
    cycle = Cycle.of(seen(100)).add(seen(149))
    ladder, cycle = learn(ladder, cycle, "collect", seen(149), 0.04, after=seen(150))
    assert ladder.rungs["collect"] == Yield(0.0, 0.04)
    assert cycle.steps == 3  # it goes on
    ladder, cycle = learn(ladder, cycle, "reload_in_process", seen(150), 0.3, after=seen(126))
    assert ladder.rungs["reload_in_process"].share == pytest.approx(25 / 51)
    assert (cycle.steps, cycle.marks["reload_process"].freed) == (1, 25 * MB)
    assert ladder.spent == pytest.approx(0.34)


def test_a_process_that_did_not_see_the_remedy_learns_that_it_worked() -> None:
    ladder = Ladder(growth=Growth(1.0 * MB, 0.0, 0.5))
    ladder, cycle = learn(ladder, None, "reload_process", seen(149), 0.9, after=seen(101))
    assert ladder.rungs["reload_process"].share == 1.0
    assert cycle.first == seen(101)


def test_what_is_remembered_goes_through_a_checkpoint_and_older_ones_load() -> None:
    progress = Progress(step=7, ladder=knowing(collect=0.5))
    other = Progress()
    other.load_state_dict(progress.state_dict())
    assert other == progress
    older = {key: value for key, value in Progress(step=3).state_dict().items() if key != "ladder"}
    other.load_state_dict(older)
    assert other == Progress(step=3)


@pytest.mark.parametrize(
    "broken",
    [
        {"growth": {"bytes_per_step": 0.0, "noise": 0.0, "active": 0.0}},
        {"slowing": {"seconds_per_byte": -1.0, "before": 1.0, "at_first": 1.0}},
        {"rungs": {"collect": {"share": 2.0, "seconds": 0.1}}},
        {"spent": float("nan")},
    ],
)
def test_a_hostile_checkpoint_is_refused(broken: dict) -> None:
    state = Progress(ladder=Ladder()).state_dict()
    state["ladder"] |= broken
    with pytest.raises(ConfigError):
        Progress().load_state_dict(state)


# --- Simulated runs -----------------------------------------------------------------------------


def only(kind: Rung, **run: float) -> Simulated:
    return Simulated([Kind(kind, active=kind != "clear_cache")], **run)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", RUNGS)
def test_each_rung_that_does_not_work_is_tried_once(kind: Rung) -> None:
    run = only(kind).run()
    tried = [rung for _, rung in run.taken]
    assert run.peak == run.budget  # the last step that fits
    assert tried.count(kind) >= 7
    assert all(tried.count(rung) <= 1 for rung in RUNGS if rung != kind)


@pytest.mark.parametrize("kind", RUNGS)
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_remedies_take_at_most_a_tenth_more_than_the_best_interval(
    kind: Rung, noise: float
) -> None:
    run = only(kind, steps=1000, noise=noise * MB).run()
    assert run.peak <= run.budget
    best = best_interval([kind], noise * MB)
    assert run.remedy_seconds <= 1.1 * best


def test_over_all_kinds_they_take_half_of_the_best_single_interval() -> None:
    runs = [only(kind, steps=1000).run() for kind in RUNGS]
    assert sum(run.remedy_seconds for run in runs) <= 0.5 * best_interval(list(RUNGS), 0.0)


def best_interval(kinds: list[Rung], noise: float) -> float:
    """Seconds of the reloads of the best interval and method that keep all kinds in the budget."""
    found = []
    for rung in ("reload_in_process", "reload_process"):
        for interval in range(40, 52):
            runs = [
                at_interval(only(kind, steps=1000, noise=noise), interval, rung) for kind in kinds
            ]
            if all(run.peak <= run.budget for run in runs):
                found.append(sum(run.remedy_seconds for run in runs))
    return min(found)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(RUNGS),
    rate=st.floats(0.02, 10),
    steps_that_fit=st.integers(40, 200),
    noise=st.floats(0, 1),
    headroom=st.floats(0, 50),
    seed=st.integers(0, 2**32),
)
def test_in_the_budget_with_at_most_one_reload_more_than_foresight(
    kind: Rung, rate: float, steps_that_fit: int, noise: float, headroom: float, seed: int
) -> None:
    """Readings differ from the trend by at most 1.7 sigma, so two of them by less than 4.

    The run ends in the middle of a cycle: each cycle is shorter by what the noise takes, and where
    that adds up to the rest of the run, it holds one remedy more.
    """
    grows, lost_steps = rate * MB, 6 * noise + 2
    cycles = max(min(int(steps_that_fit / 2 / lost_steps) - 1, 8), 1)
    run = Simulated(
        [Kind(kind, grows, active=kind != "clear_cache")],
        steps=round((cycles + 0.5) * steps_that_fit),
        budget=(100 + headroom) * MB + grows * (steps_that_fit + 4 * noise),
        headroom=headroom * MB,
        noise=noise * grows,
        seed=seed,
    )
    best = foreseen(replace(run))
    run.run()
    assert run.peak <= run.budget + 1
    assert len(run.reloads()) <= best + 1


@settings(deadline=None)
@given(noise=st.floats(0, 60), base=st.floats(50, 149), seed=st.integers(0, 2**32))
def test_a_run_that_does_not_grow_is_never_touched(noise: float, base: float, seed: int) -> None:
    assert not Simulated([], base=base * MB, noise=noise * MB, seed=seed).run().taken


def test_growth_that_ends_is_left_alone_and_what_begins_anew_tried_anew() -> None:
    ends = Kind("reload_process", stop=180)
    begins = Kind("collect", start=400)
    run = Simulated([ends, begins], steps=600).run()
    assert not [step for step, _ in run.taken if 180 <= step < 400]
    assert run.peak <= run.budget
    later = [rung for step, rung in run.taken if step >= 400]
    assert "collect" in later


def test_a_rung_that_frees_a_part_postpones_the_dearer_one() -> None:
    kinds = [Kind("collect", 0.9 * MB), Kind("reload_process", 0.1 * MB)]
    run = Simulated(kinds, steps=2000).run()
    dear = Simulated([replace(kind, remedy="reload_process") for kind in kinds], steps=2000).run()
    assert run.peak <= run.budget
    assert len(run.reloads()) < len(dear.reloads()) / 5
    assert run.remedy_seconds < dear.remedy_seconds / 5


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_a_slow_reload_does_not_make_a_dearer_one_look_cheap(seed: int) -> None:
    busy = {"steps": 1000, "residue": 7.0 * MB, "jitter": 0.9, "seed": seed}
    tried = [rung for _, rung in only("reload_in_process", **busy).run().taken]
    assert tried.count("reload_in_process") >= 20
    assert "reload_process" not in tried


def test_without_checkpoints_only_what_keeps_the_state_is_taken() -> None:
    run = only("reload_in_process", steps=200)
    run.rungs = KEEPING_STATE
    assert {rung for _, rung in run.run().taken} <= set(KEEPING_STATE)


def test_steps_that_become_faster_while_memory_grows_are_not_slowed_by_it() -> None:
    def at(megabytes: float) -> Observation:
        return replace(seen(megabytes), seconds=0.002 + 0.001 * (92 - megabytes))

    cycle = Cycle.of(at(92))  # a first step that holds more than those that follow
    for megabytes in range(50, 91):
        cycle = cycle.add(at(megabytes))
    limits = Limits(budget=10_000 * MB, max_overhead=1.0)
    assert decide(Ladder(trained=100.0), cycle, at(90), TREND, limits).rung is None


def test_where_memory_slows_steps_the_interval_loses_least_time() -> None:
    slow = {"budget": 10_000.0 * MB, "slowing": 0.001 / MB, "steps": 3000, "max_overhead": 1.0}
    run = only("reload_in_process", **slow).run()
    best = min(
        at_interval(only("reload_in_process", **slow), interval, "reload_in_process").seconds
        for interval in range(14, 34, 2)
    )
    assert run.seconds <= 1.1 * best


@settings(max_examples=30, deadline=None)
@given(
    overhead=st.floats(0.001, 0.2),
    slowing=st.floats(1e-5, 1e-2),
    kind=st.sampled_from(RUNGS),
    steps=st.integers(50, 1500),
)
def test_remedies_for_speed_keep_to_their_part_of_the_time(
    overhead: float, slowing: float, kind: Rung, steps: int
) -> None:
    slow = {"budget": 10_000.0 * MB, "slowing": slowing / MB, "steps": steps}
    run = only(kind, **slow, max_overhead=overhead).run()
    # A rung's first use costs what nobody knew before.
    assert run.remedy_seconds <= overhead * run.seconds + 0.25


def test_steps_that_are_no_faster_afterwards_are_not_tried_again() -> None:
    run = only("reload_process", budget=10_000.0 * MB, slowing=0.001 / MB, steps=1500)
    run.cures = False
    run.run()
    assert len(run.reloads()) <= 2


def test_a_ladder_is_plain_values() -> None:
    assert asdict(knowing(collect=1.0))["rungs"] == {
        "collect": {"share": 1.0, "seconds": 0.05, "uses": 1}
    }
