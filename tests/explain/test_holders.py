"""Who holds an object: the path is found from the object alone, and nothing is held afterwards."""

from __future__ import annotations

import gc
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lab.explain.holders import Holder, find_holder


class Thing:
    """What is held, as an array would be."""


class Session:
    pass


class Slots:
    __slots__ = ("kept",)


class Registry:
    kept: list[Thing] = []  # noqa: RUF012


class Node:
    me: Node
    thing: Thing


SESSION = f"{__name__}.Session"


@pytest.fixture
def module() -> Iterator[ModuleType]:
    made = sys.modules["user_code"] = ModuleType("user_code")
    yield made
    del sys.modules["user_code"]


def things(count: int = 9) -> list[Thing]:
    return [Thing() for _ in range(count)]


def holder_of(sample: list[Any], session: object = None) -> Holder | None:
    return find_holder(sample, session, ignore=[sample], seconds=30)


def make_hook() -> Callable[[], list[Thing]]:
    kept = things()

    def hook() -> list[Thing]:
        return kept

    return hook


def generate() -> Iterator[list[Thing]]:
    kept = things()
    yield kept


def test_a_list_of_the_session() -> None:
    session: Any = Session()
    session.history = things()
    found = holder_of(session.history[4:], session)
    assert found == Holder(f"{SESSION}.history[4]", "session", 1.0, f"{SESSION}.history")


def test_a_list_of_a_module(module: Any) -> None:
    module.KEPT = things()
    assert holder_of(module.KEPT[4:]) == Holder(
        "user_code.KEPT[4]", "module", 1.0, "user_code.KEPT"
    )


def test_a_closures_cell() -> None:
    session: Any = Session()
    session.hooks = [make_hook()]
    found = holder_of(list(session.hooks[0]()), session)
    assert found is not None
    name = "make_hook.<locals>.hook"
    assert found.path == f"{SESSION}.hooks[0], function {name}, cell 'kept'[0]"
    assert found.container == f"{SESSION}.hooks[0], function {name}, cell 'kept'"


def test_a_frame_of_a_stored_traceback(module: Any) -> None:
    module.ERRORS, made = [], []

    def fail() -> None:
        activations = Thing()
        made.append(weakref.ref(activations))
        raise ValueError

    for _ in range(9):
        try:
            fail()
        except ValueError as error:
            module.ERRORS.append(error)
    found = holder_of([reference() for reference in made])
    assert found is not None
    assert found.path.startswith("traceback of ValueError in user_code.ERRORS[")
    assert "test_holders.py:" in found.path
    assert found.path.endswith("fail, local 'activations'")
    assert found.container == "user_code.ERRORS"


@pytest.mark.parametrize("kept", [deque, tuple, dict.fromkeys, list])
def test_other_containers(kept: Any) -> None:
    session: Any = Session()
    session.queue = kept(things())
    found = holder_of(list(session.queue), session)
    assert found is not None
    assert found.path.startswith(f"{SESSION}.queue[")


def test_slots_a_generator_and_a_class() -> None:
    session: Any = Session()
    session.one, session.two = Slots(), generate()
    session.one.kept = things()
    held = next(session.two)
    first = holder_of(list(session.one.kept), session)
    second = holder_of(list(held), session)
    Registry.kept.extend(things())
    third = holder_of(list(Registry.kept))
    Registry.kept.clear()
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.path == f"{SESSION}.one.kept[0]"
    assert second.path == f"{SESSION}.two, generator generate, local 'held'[0]".replace(
        "held", "kept"
    )
    registry = f"{__name__}.Registry.kept"
    assert third == Holder(f"{registry}[0]", "class", 1.0, registry)


def test_the_container_is_the_one_that_takes_them_in() -> None:
    """Neither a pair in it, nor a list of few things above it, nor an attribute of one of them."""
    session: Any = Session()
    session.parts = [Session(), Session()]
    session.parts[1].memo = {(i, "a"): ([thing], 1) for i, thing in enumerate(things())}
    found = holder_of([pair[0][0] for pair in session.parts[1].memo.values()], session)
    assert found is not None
    assert found.path == f"{SESSION}.parts[1].memo[(0, 'a')][0][0]"
    assert found.container == f"{SESSION}.parts[1].memo"
    session.parts[1].memo, session.parts[1].running = {}, things(1)[0]
    found = holder_of([session.parts[1].running], session)
    assert found == Holder(f"{SESSION}.parts[1].running", "session", 1.0, None)


def test_what_only_a_running_function_holds_is_no_cycle() -> None:
    loop = SimpleNamespace(context=SimpleNamespace(memo={"a": things()}))
    found = holder_of(list(loop.context.memo["a"]))
    assert found is not None
    assert found.root == "object"
    assert found.path == "types.SimpleNamespace.context.memo['a'][0]"


def test_a_cycle_without_a_root() -> None:
    gc.disable()
    try:
        made = []
        for _ in range(9):
            node = Node()
            node.me, node.thing = node, Thing()
            made.append(weakref.ref(node.thing))
        del node
        found = holder_of([reference() for reference in made[:-1]])
    finally:
        gc.enable()
    assert found == Holder(f"unreachable cycle of {__name__}.Node", "cycle", 1.0)


def test_most_of_the_sample_decides(module: Any) -> None:
    """A few that belong to the model do not make the model the holder."""
    session: Any = Session()
    session.model, module.KEPT = things(3), things(9)
    found = holder_of([*session.model, *module.KEPT], session)
    assert found is not None
    assert found.path.startswith("user_code.KEPT[")
    assert found.share == 0.75


class Loud:
    """A key whose text is the user's code."""

    def __repr__(self) -> str:
        raise AssertionError

    def __hash__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (("a", Loud()), "('a', Loud)"),
        (Loud(), "Loud"),
        ((7,), "(7,)"),
        (frozenset(), "frozenset"),
        (None, "None"),
        ("a" * 50, "'" + "a" * 39 + "..."),
    ],
)
def test_a_key_is_shown_without_running_code_of_the_user(key: Any, shown: str) -> None:
    session: Any = Session()
    session.memo = {key: things(1)[0]}
    found = holder_of(list(session.memo.values()), session)
    assert found is not None
    assert found.path == f"{SESSION}.memo[{shown}]"


def test_a_number_too_long_to_write_is_shown_as_one() -> None:
    session: Any = Session()
    session.memo = {10**5000: things(1)[0]}
    found = holder_of(list(session.memo.values()), session)
    assert found is not None
    assert found.path == f"{SESSION}.memo[int]"


def test_a_search_that_is_cut_off_does_not_tell_what_it_met_by_chance(module: Any) -> None:
    session: Any = Session()
    session.history = things(16)
    module.NEWEST = session.history[-1]
    sample = list(session.history)
    assert find_holder(sample, session, ignore=[sample], seconds=0) is None
    found = holder_of(sample, session)
    assert found is not None
    assert found.root == "session"


def test_nothing_is_held_afterwards() -> None:
    session: Any = Session()
    session.history = things()
    alive = [weakref.ref(thing) for thing in session.history]
    gc.collect()
    before = len(gc.get_objects())
    holder_of(session.history[4:], session)
    del session.history
    assert [reference() for reference in alive] == [None] * 9
    assert len(gc.get_objects()) <= before
