"""``metrics.jsonl`` as columns: both readers, on whole and on damaged files."""

from __future__ import annotations

import json
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lab.plots.columns import KEYS, Columns, read_columns, read_columns_fast

VALUES = st.one_of(st.none(), st.floats(-1e300, 1e300), st.integers(-(2**40), 2**40))
ROWS = st.lists(
    st.fixed_dictionaries(
        {"step": st.integers(1, 10**6)},
        optional=dict.fromkeys((*KEYS, "learning_rate"), VALUES),
    ),
    max_size=12,
)
RUBBISH = st.sampled_from(
    [
        *(b"rubbish\n", b"\n", b"[1]\n", b"{}\n", b"\xff\n", b"\0\0", b'{"step": 7'),
        *(b'{"step": "x"}\n', b'{"step": 2.5}\n', b'{"step": NaN}\n', b'{"step": true}\n'),
        *(b'{"step": 99999999999999999999999}\n', b'{"step": 1, "loss": "x"}\n'),
        *(b'{"loss": 1e999, "step": 3}\n', b'{"time": {}, "step": 4}\n'),
    ]
)


@given(rows=ROWS, rubbish=st.lists(st.tuples(st.integers(0, 12), RUBBISH), max_size=3))
def test_fast_and_careful_reading_agree_on_any_file(tmp_path_factory, rows, rubbish):
    folder = tmp_path_factory.mktemp("rows")
    lines = [(json.dumps(row) + "\n").encode() for row in rows]
    for at, text in rubbish:
        lines.insert(at, text)
    (folder / "metrics.jsonl").write_bytes(b"".join(lines))
    (fast, _), careful = read_columns_fast(folder), read_columns(folder)
    for key in ("step", *KEYS):
        np.testing.assert_array_equal(fast[key], careful[key])


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=20))
def test_rows_hold_the_values_of_the_columns_again(losses):
    count = len(losses)
    values = dict.fromkeys(KEYS, np.full(count, math.nan))
    columns = Columns({"step": np.arange(1.0, count + 1), **values, "loss": np.array(losses)})
    rows = list(columns.rows())
    assert [row["step"] for row in rows] == list(range(1, count + 1))
    assert [row.get("loss", "missing") for row in rows] == [
        "missing" if math.isnan(loss) else loss for loss in losses
    ]


def test_a_missing_file_has_no_rows_and_one_that_cannot_be_read_says_so(tmp_path):
    columns, problem = read_columns_fast(tmp_path)
    assert (len(columns), problem) == (0, "")
    (tmp_path / "metrics.jsonl").mkdir()
    columns, problem = read_columns_fast(tmp_path)
    assert (len(columns), problem) == (0, "metrics.jsonl cannot be read: Is a directory")
