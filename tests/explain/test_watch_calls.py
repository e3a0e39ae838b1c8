"""What MLX keeps for ever: traces are counted by signature, and computing stays the same."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import pytest

from lab.explain import graphs, watch_calls
from lab.explain.watch_calls import Calls, Traced


@pytest.fixture
def calls() -> Iterator[Calls]:
    yield watch_calls.watch()
    watch_calls.unwatch()


def only(calls: Calls) -> Traced:
    [traced] = calls.traced.values()
    return traced


def test_each_shape_and_each_constant_is_a_trace(calls: Calls) -> None:
    scaled = mx.compile(lambda x, s: x * s)
    for length, factor in ((2, 1.0), (3, 1.0), (3, 2.0), (3, 2.0), (2, 1.0)):
        assert scaled(mx.ones((length,)), factor).tolist() == [factor] * length
    assert only(calls).traces == 3
    assert only(calls).changed == "argument 2: 2.0, before 1.0"
    assert "test_watch_calls.py:" in only(calls).line


def test_within_a_gradient_nothing_is_kept(calls: Calls) -> None:
    inner = mx.compile(lambda x: x * x)
    gradient = mx.grad(lambda x: inner(x + 1).sum())
    for length in (2, 3, 4):
        assert gradient(mx.zeros((length,))).tolist() == [2.0] * length
    assert only(calls).traces == 0


@pytest.mark.parametrize(("kept", "traces"), [(True, 5), (False, 0)])
def test_a_function_compiled_at_each_step_is_one(calls: Calls, kept: bool, traces: int) -> None:
    """MLX forgets the traces of one that is dropped."""
    alive = []
    for length in range(1, 6):
        compiled = mx.compile(lambda x: x + 1)
        mx.eval(compiled(mx.ones((length,))))
        alive += [compiled] * kept
        del compiled
    assert only(calls).traces == traces


def test_one_compiled_anew_is_traced_anew(calls: Calls) -> None:
    """A session that is built again meets the shapes that the one before it met."""
    for _ in range(2):
        compiled = mx.compile(lambda x: x + 1)
        for length in range(1, 6):
            mx.eval(compiled(mx.ones((length,))))
        assert only(calls).traces == 5
        del compiled


def test_new_streams_by_their_line(calls: Calls) -> None:
    for _ in range(3):
        mx.new_stream(mx.cpu)
    [(line, count)] = calls.streams.items()
    assert count == 3
    assert "test_watch_calls.py:" in line


def test_unwatched_it_is_mlx_again() -> None:
    before = mx.compile, mx.new_stream
    watch_calls.watch()
    watch_calls.unwatch()
    assert (mx.compile, mx.new_stream) == before


def test_the_length_of_a_lazy_chain_without_evaluating_it() -> None:
    start = mx.zeros((4,))
    mx.eval(start)
    chain = start
    for _ in range(100_000):  # deep enough to overrun an ordinary stack
        chain = chain + start
    memory = mx.get_active_memory()
    found = graphs.lazy_arrays([start, chain])
    assert [length for _, length in found.ends] == [100_000]
    assert found.ids == {id(chain)}
    assert mx.get_active_memory() == memory
    assert graphs.lazy_arrays([start]).ends == []


def test_many_ends_of_one_long_chain_are_not_counted_one_by_one() -> None:
    """Each of so many counts all that it hangs on: together the square of their number."""
    running, kept = mx.array(0.0), []
    for _ in range(1500):
        running = running + 1
        kept.append(running * 2)
    found = graphs.lazy_arrays(kept)
    assert found.ids == set(map(id, kept))
    assert found.ends[0] == (kept[-1], 1501)
    assert sum(length for _, length in found.ends) < graphs.COUNTED + 2 * 1501


def test_what_mlx_cannot_tell_is_an_error_of_the_caller(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(graphs, "_look", None)
    with pytest.raises(RuntimeError, match="TypeError"):
        graphs.lazy_arrays([mx.array(0)])
    assert capsys.readouterr().err == ""
