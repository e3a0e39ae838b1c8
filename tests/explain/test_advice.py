"""One sentence that a user would act on: it names what is to be emptied, evaluated or bounded."""

from __future__ import annotations

from typing import Any

import pytest

from lab.explain.advice import advice_on

FAULT = "lab.train.session.Session.faults[0]"
MEMO = "lab.train.lab_trainer.LabTrainer._context.data.train.memo"
TOKEN = "by_token (lab/faults/compiled.py:16), compiled at lab/faults/compile_shapes.py:20"
ERROR = "traceback of ValueError in m.ERRORS[68], frame m.py:26 grow, local 'logits'"
SEEN = f"{FAULT}.callback, function running_maximum.<locals>.update, cell 'seen'"

# kind, holder, root, container; how the sentence begins, and what stands in it
CASES = [
    (
        "active",
        f"{FAULT}.history[220]",
        "session",
        f"{FAULT}.history",
        f"Empty {FAULT}.history, or keep",
    ),
    ("active", f"{SEEN}[220]", "session", SEEN, f"Empty {SEEN}, or keep"),
    ("active", f"{FAULT}.last", "session", None, f"Empty {FAULT}.last, or keep"),
    ("active", ERROR, "module", "m.ERRORS", "Empty m.ERRORS, and keep the text of an error"),
    (
        "active",
        f"{FAULT}.queue.queue[7][3]",
        "session",
        f"{FAULT}.queue.queue",
        f"Give {FAULT}.queue a bound",
    ),
    (
        "active",
        "unreachable cycle of m.Record",
        "cycle",
        None,
        "Break the cycle of m.Record (a weakref",
    ),
    ("active", None, None, None, "Find what keeps arrays alive"),
    ("lazy_graph", f"{FAULT}.running", "session", None, f"Evaluate {FAULT}.running at each step"),
    (
        "lazy_graph",
        f"{FAULT}.averages['a.b']",
        "session",
        f"{FAULT}.averages",
        f"Evaluate all of {FAULT}.averages at",
    ),
    (
        "lazy_graph",
        "m.LAYERS[7].sum",
        "module",
        "m.LAYERS",
        "Evaluate m.LAYERS[7].sum at each step",
    ),
    ("lazy_graph", None, None, None, "Evaluate at each step (mx.eval) what"),
    (
        "python",
        f"{MEMO}[(9, 1)][0], allocated at a.py:3",
        "object",
        MEMO,
        f"Empty {MEMO} (filled at a.py:3) now",
    ),
    ("python", "a.py:3", "allocation", None, "Look at what keeps what a.py:3 allocates"),
    (
        "native",
        f"{FAULT}.lines, allocated at a.py:3",
        "session",
        f"{FAULT}.lines",
        f"The C heap grows, with {FAULT}.lines (filled at a.py:3)",
    ),
    (
        "native",
        "a.py:3 (new streams)",
        "line",
        None,
        "Make the stream once, not at each step: a.py:3",
    ),
    ("native", None, None, None, "The C heap grows outside MLX and Python"),
    (
        "cache",
        None,
        None,
        None,
        "MLX keeps freed buffers of ever new sizes: set memory.cache_clear",
    ),
    ("other", None, None, None, "Neither MLX nor Python holds it"),
]


@pytest.mark.parametrize(("kind", "holder", "root", "container", "begins"), CASES)
def test_the_sentence_names_what_is_to_be_done(
    kind: str, holder: str | None, root: str | None, container: str | None, begins: str
) -> None:
    said = advice_on({"kind": kind, "holder": holder}, root, container)
    assert said.startswith(begins)
    assert "220]" not in said


@pytest.mark.parametrize(
    ("changed", "place", "says"),
    [
        ("argument 1: [9] int32, before [8] int32", TOKEN, ": pad to fewer shapes, or do not"),
        ("argument 2: 0.5, before 0.25", TOKEN, ": pass the number as an array (mx.array(x)), or"),
        (
            "its captured inputs",
            TOKEN,
            "pad to fewer shapes, pass numbers that change as arrays, or",
        ),
        (
            "argument 1: [9] int32, before [8] int32",
            "step, compiled at lab/train/step.py:9",
            "train.compile=false",
        ),
    ],
)
def test_of_a_compiled_function_it_goes_by_what_changed(
    changed: str, place: str, says: str
) -> None:
    found: dict[str, Any] = {"kind": "compile_cache", "holder": place}
    said = advice_on(found | {"signatures": {"changed": changed}}, "compiled", None)
    assert said.startswith(f"{place} is traced anew at each step ({changed})")
    assert says in said
