"""Growth modes: the curve stays as it is, memory grows as was asked, and what gives it back."""

from __future__ import annotations

from pathlib import Path

import mlx.nn as nn
import pytest
from mlx.optimizers import SGD

from benchmarks.growth_modes import measure
from lab.compose.profiles import CONF
from lab.config.keys import Fault, Growth
from lab.config.units import MB
from lab.faults import fault
from lab.faults.compiled import TRACE_BYTES
from lab.faults.fault import Moment
from lab.faults.truth import TRUTHS
from tests.composing import composed, config, refusal
from tests.runs import Run, start
from tests.train.test_exact import LAST, METHODS, assert_same

ALL = f"fault=[{','.join(TRUTHS)}]"
SHORT = ("train.val_interval_steps=2", "data.val_fraction=0.05", "adapter.dropout=0.1")
COUNTER = {"lazy_graph": "active", "active": "active", "cache": "cache"}  # else: process


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tmp_path_factory.mktemp("straight") / "run", "reload=none", "adapter=lora", *SHORT)


@pytest.mark.parametrize("method", METHODS)
def test_all_at_once_change_nothing(method: str, straight: Run, tmp_path: Path) -> None:
    rates = [f"fault.{name}.mb_per_step=0.2" for name in TRUTHS]
    run = start(tmp_path / "run", *METHODS[method], "adapter=lora", *SHORT, ALL, *rates)
    assert [event["step"] for event in run.events("reload")] == [2, 4]
    assert_same(run, straight, LAST)
    armed = run.events("fault_armed")
    workers = 3 if method == "process" else 1
    assert sorted(event["fault"] for event in armed) == sorted([*TRUTHS] * workers)
    first = {event["fault"]: event for event in armed[: len(TRUTHS)]}
    assert first["streams"]["mb_per_step"] == 0.2
    assert first["streams"]["start_step"] == first["streams"]["step"] == 1
    assert first["validation_graph"]["step"] == 2  # the first validation


# One of each kind and remedy; the others are alike, and run with the slow tests.
MEASURED = {"lazy_loss", "module_list", "cycles", "ragged_cache", "streams"}
ALIKE = sorted(TRUTHS.keys() - MEASURED)
MODES = [*sorted(MEASURED), *(pytest.param(name, marks=pytest.mark.slow) for name in ALIKE)]


@pytest.mark.parametrize("name", MODES)
def test_it_grows_as_asked_and_the_known_remedy_is_the_cheapest(name: str) -> None:
    found = measure(name, mb=1.0, steps=24, overrides=("train.batch_size=4",))
    counter = COUNTER.get(TRUTHS[name].kind, "process")
    assert found.rates[counter] == pytest.approx(1.0, rel=0.1)
    assert found.remedy == TRUTHS[name].remedy
    if "mlx" not in TRUTHS[name].seen_by:
        assert found.rates["active"] + found.rates["cache"] < 0.1


def test_a_fault_starts_at_its_step(tmp_path: Path) -> None:
    run = start(
        tmp_path / "run", "reload=none", "fault=trainer_list", "fault.trainer_list.start_step=4",
        "fault.trainer_list.mb_per_step=0.05",
    )  # fmt: skip
    [armed] = run.events("fault_armed")
    assert (armed["step"], armed["fault"]) == (4, "trainer_list")
    active = [gb * 1024 for gb in run.column("memory/active_gb")]
    assert active[2] - active[1] == pytest.approx(0, abs=0.01)
    assert active[5] - active[2] == pytest.approx(3 * 0.05, abs=0.02)


@pytest.mark.parametrize("rate", [0.01, 10.0])
def test_the_rate_holds_where_a_unit_is_larger_or_smaller(rate: float) -> None:
    """A unit of the compile cache is 0.05 MB: one in five steps, or two hundred in each."""
    counted = _Counting("compile_shapes", Growth(mb_per_step=rate))
    moment = Moment(1, nn.Module(), SGD(0.1), (), (), None)  # type: ignore[arg-type]
    acted = [counted.after_step(moment) for _ in range(50)]
    assert acted[0]
    assert counted.units * TRACE_BYTES / 50 == pytest.approx(rate * MB, rel=0.1)


class _Counting(fault.Fault):
    """A fault that only counts its units."""

    units = 0

    def grow(self, moment: Moment, wanted: float) -> float:
        self.units += 1
        return TRACE_BYTES


@pytest.mark.usefixtures("hydra_here")
class TestSettings:
    def test_every_mode_has_settings_and_a_truth(self) -> None:
        assert set(TRUTHS) == set(Fault.__dataclass_fields__) - {"crash"}

    def test_several_are_given_as_a_list(self) -> None:
        fault = config("fault=[lazy_loss,crash]", "fault.lazy_loss.mb_per_step=0.05").fault
        assert fault.lazy_loss == Growth(mb_per_step=0.05)
        assert fault.crash is not None
        assert fault.streams is None

    def test_a_fault_brings_what_it_needs_and_the_user_has_the_last_word(self) -> None:
        assert config("fault=ragged_cache").memory.cache_clear_interval == 0
        assert config("fault=validation_graph").train.val_interval_steps == 2
        given = config("fault=ragged_cache", "memory.cache_clear_interval=5").memory
        assert given.cache_clear_interval == 5
        assert config().memory.cache_clear_interval == 10

    @pytest.mark.parametrize("rate", ["0", "-1", ".nan", "1e9", "fast"])
    def test_a_nonsense_rate_is_refused(self, rate: str) -> None:
        said = refusal("fault=closure", f"fault.closure.mb_per_step={rate}")
        assert said.startswith("fault.closure.mb_per_step=")
        assert "at least 0.01 and at most 10 MB a step" in said

    def test_a_step_before_the_first_is_refused(self) -> None:
        assert "at least 1 steps" in refusal("fault=closure", "fault.closure.start_step=0")

    def test_mlx_lms_own_loop_takes_none(self) -> None:
        said = refusal("trainer=mlx_lm", "fault=streams")
        assert said == (
            "trainer=mlx_lm: is mlx-lm's own loop, in which fault.streams cannot act; "
            "choose trainer=lab"
        )
        config("trainer=mlx_lm", "fault=crash")

    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            (("reload=threshold", "reload.metric=active"), "fault.streams grows outside"),
            (("reload=leak", "reload.metric=mlx"), "fault.streams grows outside"),
            (("reload=threshold", "reload.metric=process"), None),
            (("reload=none", "reload.metric=active"), None),
            (("fault.streams.start_step=999",), "fault.streams.start_step=999 is never reached"),
        ],
    )
    def test_what_the_policy_cannot_see_gets_one_line(self, overrides, said: str | None) -> None:
        _, warnings = composed("fault=streams", *overrides)
        about = [line for line in warnings if "fault." in line]
        assert len(about) == (said is not None)
        assert said is None or about[0].startswith(said)

    @pytest.mark.parametrize("report", sorted(p.stem for p in CONF.glob("experiment/report_*")))
    def test_a_replayed_report_has_its_faults_and_runs_without_them(self, report: str) -> None:
        chosen = [f"experiment={report}", "model=tiny"]
        assert any(getattr(config(*chosen).fault, name) for name in TRUTHS)
        assert config(*chosen, "fault=none").fault == Fault()

    def test_without_validation_its_graph_never_grows(self) -> None:
        _, warnings = composed("fault=validation_graph", "train.val_interval_steps=0")
        assert "fault.validation_graph never acts with train.val_interval_steps=0" in warnings
