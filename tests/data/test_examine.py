"""``lab data``: a file's lines as training reads them, before there is a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.cli import main
from lab.config.keys import dump
from lab.data.dataset import measure_lengths, open_data
from tests.data.test_data import data_of, train_of, write
from tests.runs import config_of

PAIR = {"prompt": "2 + 2 = ", "completion": "4"}
LONG = {"prompt": "why? " * 20, "completion": "so"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three files, in which a sample is twice in one and once more in another."""
    write(tmp_path / "train.jsonl", PAIR, {"prompt": "a", "completion": "b"}, LONG, PAIR)
    write(tmp_path / "valid.jsonl", LONG, {"prompt": "c", "completion": "d"})
    write(tmp_path / "test.jsonl", {"prompt": "e", "completion": "f"})
    return tmp_path


def report(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict[str, Any]:
    assert main(["data", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_every_file_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = report(capsys, folder)["files"]
    assert [Path(f["file"]).name for f in files] == ["train.jsonl", "valid.jsonl", "test.jsonl"]
    train = files[0]
    assert (train["samples"], train["form"]) == (4, "completion")
    assert train["tokens"] == 2 * 10 + 3 + 103  # bytes, and the end of each text
    assert train["tokens_that_count"] == 2 * 2 + 2 + 3
    assert sum(row["samples"] for row in train["histogram"]) == 4
    assert train["histogram"][0] == {"up_to": 4, "samples": 1}


def test_duplicates_and_what_is_in_two_files_are_named_by_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, valid, test = report(capsys, folder)["files"]
    assert train["duplicates"] == {"4": 1}
    assert valid["in_train_too"] == {"1": 3}
    assert test["in_train_too"] == {}


def test_it_says_of_lengths_what_a_run_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = report(capsys, folder / "train.jsonl", "--max-seq-length", 40)["files"][0]
    data = open_data(
        data_of(folder / "train.jsonl"), train_of(), 0, tokenizer_folder=None, cache_dir=folder
    )
    assert (train["cut"], train["teach_nothing"]) == (1, [3])
    said = measure_lengths(data.train_tokens, 40)
    assert (said["cut"], said["empty"]) == (1, 1)
    assert said["longest_tokens"] == train["longest"]


def test_of_a_run_it_says_the_shapes_of_its_batches(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of("train.batch_size=2", "train.max_seq_length=64", "data.pad_multiple=16")
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text(dump(config))
    found = report(capsys, folder, "--model", run)
    assert {width for _, width, _ in found["shapes"]} == {16, 64}
    assert 0 < found["padded_fraction"] < 0.8
    assert main(["data", str(folder), "--model", str(run)]) == 0
    assert "in batches of 2 x 16, 2 x 64 tokens, 48.1% padding" in capsys.readouterr().out


def test_all_bad_lines_are_named_and_the_others_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.jsonl"
    lines = [json.dumps(PAIR), "{", json.dumps(LONG), '{"text": "no"}', "[1]"]
    path.write_text("\n".join(lines))
    found = report(capsys, path, code=1)["files"][0]
    assert found["samples"] == 2
    assert list(found["bad"]) == ["2", "4", "5"]
    assert main(["data", str(path)]) == 1
    told = capsys.readouterr().out
    assert "  bad lines          3\n    line 2: must be a JSON object" in told


def test_it_shows_which_tokens_of_a_sample_count(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", str(folder / "train.jsonl")]) == 0
    told = capsys.readouterr().out
    assert "line 1, 2 of 10 tokens count\n    masked  2 + 2 = \n    counts  4<eos>\n" in told
    assert "cut                none to 256" in told


def test_a_model_reads_with_its_own_tokenizer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.data.test_data import model_folder

    model = model_folder(tmp_path / "model", "{{ messages[-1].content }}")
    (model / "config.json").write_text("{}")
    train = report(capsys, folder, "--model", model)["files"][0]
    assert train["tokens"] < 100


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is no such file or folder"),
        ("", "has no sample; must have one of"),
        ("a,b\n1,2\n", "has no sample, line 1 must be a JSON object"),
    ],
)
def test_a_wrong_file_is_one_line(
    tmp_path: Path, content: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_text(content)
    assert main(["data", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"data={path}"[:120])
    assert said in told
    assert told.count("\n") == 1


def test_a_length_that_no_run_takes_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", str(folder), "--max-seq-length", "4"]) == 2
    assert capsys.readouterr().err == "max_seq_length=4: must be at least 8 tokens\n"
