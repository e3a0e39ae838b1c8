"""Data from file to batch: formats, bad input, the index, and the sources that are made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Fast
from tokenizers import models, pre_tokenizers

from lab.config.keys import Data, Train
from lab.config.schema import ConfigError
from lab.data import index, sources
from lab.data.batches import Batch
from lab.data.dataset import OpenData, open_data
from lab.data.sources import stdlib_docs_folder
from lab.data.tokenizer import ByteTokenizer

EOS = ByteTokenizer.eos_id


def data_of(path: Path | None = None, **keys: Any) -> Data:
    given = {"name": "jsonl", "path": path and str(path), "val_fraction": 0.0, "pad_multiple": 8}
    return Data(**(given | keys))


def train_of(**keys: Any) -> Train:
    given = {
        "steps": 10, "batch_size": 2, "grad_accumulation_steps": 1, "max_seq_length": 64,
        "max_grad_norm": 1.0, "grad_checkpoint": False, "mask_prompt": True, "compile": False,
        "dtype": "float32", "deterministic": True, "on_nonfinite": "stop",
        "val_interval_steps": 0, "val_batches": 1,
    }  # fmt: skip
    return Train(**(given | keys))


def opened(data: Data, cache: Path, **keys: Any) -> OpenData:
    return open_data(data, train_of(**keys), 3, tokenizer_folder=None, cache_dir=cache)


def write(path: Path, *samples: object) -> Path:
    path.write_text("".join(json.dumps(s) + "\n" for s in samples))
    return path


def texts(count: int) -> list[dict[str, str]]:
    return [{"text": f"{i} " + "x" * (i * 7 % 50)} for i in range(count)]


# --- Formats ------------------------------------------------------------------------------------


def only_batch(tmp_path: Path, sample: object, **keys: Any) -> Batch:
    path = write(tmp_path / "one.jsonl", sample)
    return opened(data_of(path), tmp_path / "cache", batch_size=1, **keys).train.batch(0)


def counted(batch: Batch) -> list[int]:
    return [t for t, weight in zip(batch.targets, batch.weights, strict=True) if weight]


def test_text_counts_every_token_and_its_end(tmp_path):
    assert counted(only_batch(tmp_path, {"text": "héy"})) == [*"héy".encode()[1:], EOS]


def test_only_the_completion_counts_with_a_masked_prompt(tmp_path):
    sample = {"prompt": "ab", "completion": "cd", "id": 7}
    assert counted(only_batch(tmp_path, sample)) == [*b"cd", EOS]
    assert counted(only_batch(tmp_path, sample, mask_prompt=False)) == [*b"bcd", EOS]


def test_only_the_last_answer_counts_in_a_chat(tmp_path):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    assert counted(only_batch(tmp_path, {"messages": talk})) == [*b"yo", EOS]


def test_a_prompt_that_fills_the_sequence_leaves_nothing_to_count(tmp_path):
    batch = only_batch(tmp_path, {"prompt": "p" * 90, "completion": "c"})
    assert (batch.num_tokens, batch.empty, batch.truncated) == (0, 1, 1)
    assert batch.weights.tolist() == [0.0] * 8
    assert batch.inputs.shape == (1, 64)


# --- Bad input ----------------------------------------------------------------------------------

GOOD = b'{"prompt": "a", "completion": "b"}\n'
BAD_LINES = {
    b"{": "JSON object",
    b"[1]": "not a JSON list",
    b'{"prompt": "a"}': 'no "completion"',
    b'{"text": "a"}': 'keys of the first, "prompt", "completion"',
    b'{"prompt": "a", "completion": 3}': '"completion" must be text',
    b'{"prompt": "\xff", "completion": "b"}': "UTF-8",
    b'{"prompt": "\\ud800", "completion": "b"}': "UTF-8",
    b'{"prompt": "a", "completion": "b", "tools": ["x"]}': "tools",
    b'{"prompt":' + b"[" * 100_000: "nested",
    b'{"prompt": "a", "completion": "b", "id": ' + b"1" * 5000 + b"}": "JSON object",
}


@pytest.mark.parametrize(("line", "said"), BAD_LINES.items(), ids=BAD_LINES.values())
def test_a_bad_line_is_named(tmp_path, line, said):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD + b"\n" + GOOD + line + b"\n" + GOOD)
    with pytest.raises(ConfigError) as caught:
        opened(data_of(path), tmp_path)
    assert (caught.value.key, caught.value.value) == ("data.path", str(path))
    assert caught.value.allowed.startswith("line 4 ")
    assert said in caught.value.allowed


# What a chat template may do to the row that has "bad" in it, and what is said of it.
BAD_TEMPLATES = {
    "{{ raise_exception('not so') }}": "not so",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "recursion",
    "{{ 1 // 0 }}": "division",
    "{{ m.content + 1 }}": "refuses it",
    "{{ none.x.y }}": "None",
    "{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}": "more than 16777216 characters",
}


def model_folder(path: Path, template: str, *, unknown: str | None = "a") -> Path:
    """A tokenizer of a few words; without an unknown token the library fails on all others."""
    fast = Fast(models.WordLevel({"</s>": 0, "a": 1, "b": 2}, unk_token=unknown or "[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.add_special_tokens(["</s>"])
    path.mkdir()
    fast.save(str(path / "tokenizer.json"))
    settings = {"eos_token": "</s>", "chat_template": template}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def refusal_of_line(tmp_path: Path, folder: Path | None, samples: list[object]) -> ConfigError:
    """The complaint about the only bad sample of a file, before the first batch is drawn."""
    path = write(tmp_path / "data.jsonl", *samples)
    with pytest.raises(ConfigError) as caught:
        opened_with(folder, path, tmp_path)
    assert (caught.value.key, caught.value.value) == ("data.path", str(path))
    return caught.value


def opened_with(folder: Path | None, path: Path, cache: Path) -> OpenData:
    train = train_of(batch_size=1)
    return open_data(data_of(path), train, 3, tokenizer_folder=folder, cache_dir=cache)


@pytest.mark.parametrize("template", BAD_TEMPLATES)
def test_a_line_that_the_template_fails_on_is_named(tmp_path, template):
    guarded = f"{{% for m in messages %}}{{% if m.content == 'bad' %}}{template}{{% endif %}}"
    folder = model_folder(tmp_path / "model", guarded + "a {% endfor %}")
    words = ["a", "b", "bad", "a b"]
    samples = [{"messages": [{"role": "user", "content": word}]} for word in words]
    said = refusal_of_line(tmp_path, folder, samples).allowed
    assert said.startswith("line 3: the chat template refuses it: ")
    assert BAD_TEMPLATES[template] in said


@pytest.mark.parametrize("form", ["text", "completion", "chat"])
def test_a_line_that_the_tokenizer_fails_on_is_named(tmp_path, form):
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    folder = model_folder(tmp_path / "model", template, unknown=None)
    make = {
        "text": lambda word: {"text": word},
        "completion": lambda word: {"prompt": "a", "completion": word},
        "chat": lambda word: {"messages": [{"role": "user", "content": word}]},
    }[form]
    samples = [make(word) for word in ("a", "b", "a b", "unheard-of")]
    said = refusal_of_line(tmp_path, folder, samples).allowed
    assert said.startswith("line 4: the tokenizer fails on it: ")


def test_parts_of_content_without_a_template_are_named(tmp_path):
    parts = [{"type": "text", "text": "a"}]
    samples = [{"messages": [{"role": "user", "content": c}]} for c in ("a", parts, "b")]
    said = refusal_of_line(tmp_path, None, samples).allowed
    assert said.startswith("line 2: content in parts needs a chat template")


def test_a_template_for_tools_alone_suits_rows_with_tools(tmp_path):
    """The default template refuses such rows; nothing renders them with it."""
    folder = model_folder(tmp_path / "model", "")
    named = [
        {"name": "default", "template": "{{ raise_exception('no tools here') }}"},
        {"name": "tool_use", "template": "{{ tools | length }} a b"},
    ]
    settings = {"eos_token": "</s>", "chat_template": named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    row = {"messages": [{"role": "user", "content": "a"}], "tools": []}
    path = write(tmp_path / "data.jsonl", row, row)
    data = opened_with(folder, path, tmp_path)
    assert counted(data.train.batch(0)) == [1, 2]


BAD_FIRST = {
    "{}": "has the keys (none)",
    '{"messages": []}': "at least one",
    '{"messages": [{"content": "x"}]}': 'message 1 must have a "role"',
    '{"messages": [{"role": "user", "content": null}]}': 'message 1 must have a "content"',
}


@pytest.mark.parametrize(("line", "said"), BAD_FIRST.items(), ids=BAD_FIRST.values())
def test_the_first_line_must_have_a_known_format(tmp_path, line, said):
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=r"bad\.jsonl: line 1 ") as caught:
        opened(data_of(tmp_path / "bad.jsonl"), tmp_path)
    assert said in caught.value.allowed


def test_a_missing_or_empty_file_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jsonl").write_text("\n \n")
    bad = {"nowhere": "no such file", "folder": "has no train.jsonl", "empty.jsonl": "no sample"}
    for name, said in (bad | {"x" * 300: "no such file"}).items():
        with pytest.raises(ConfigError, match=said) as caught:
            opened(data_of(tmp_path / name), tmp_path)
        assert (caught.value.key, caught.value.value) == ("data.path", str(tmp_path / name))
    with pytest.raises(ConfigError, match="must be a JSONL file"):
        opened(data_of(None), tmp_path)


def test_too_few_samples_for_a_batch(tmp_path):
    path = write(tmp_path / "few.jsonl", *texts(3))
    with pytest.raises(ConfigError, match=r"train.batch_size=4: .* 3 in"):
        opened(data_of(path), tmp_path, batch_size=4)
    with pytest.raises(ConfigError, match=r"data\.val_fraction=0\.0: gives 0 .*batch_size=2"):
        opened(data_of(path), tmp_path, val_interval_steps=1)
    (tmp_path / "both").mkdir()
    write(tmp_path / "both" / "train.jsonl", *texts(3))
    write(tmp_path / "both" / "valid.jsonl", *texts(1))
    with pytest.raises(ConfigError, match=r"valid.jsonl: gives 1 .*batch_size=2"):
        opened(data_of(tmp_path / "both"), tmp_path, val_interval_steps=1)
    assert opened(data_of(tmp_path / "both"), tmp_path).val is None


@pytest.mark.parametrize("name", ["validation.jsonl", "val.jsonl"])
def test_a_validation_file_of_another_name_is_told_of(tmp_path, name):
    write(tmp_path / "train.jsonl", *texts(9))
    write(tmp_path / name, *texts(3))
    line = f"{tmp_path / name} is not read: validation data is in valid.jsonl"
    assert line in opened(data_of(tmp_path), tmp_path / "cache").notes
    write(tmp_path / "valid.jsonl", *texts(3))
    assert line not in opened(data_of(tmp_path), tmp_path / "cache").notes


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    write(tmp_path / "train.jsonl", *texts(9))
    (tmp_path / "valid.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"valid\.jsonl: cannot be read: Is a directory"):
        opened(data_of(tmp_path), tmp_path / "cache")


def test_other_bytes_under_an_old_time_stamp_are_noticed(tmp_path):
    path = write(tmp_path / "data.jsonl", *texts(9))
    data, before = opened(data_of(path), tmp_path), path.stat()
    path.write_bytes(b"[" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ConfigError, match="changed"):
        data.train.batch(0)


# --- Files and their index ----------------------------------------------------------------------


def test_blank_lines_a_bom_and_windows_ends_change_nothing(tmp_path):
    plain = write(tmp_path / "plain.jsonl", *texts(3))
    lines = plain.read_bytes().splitlines()
    odd = tmp_path / "odd.jsonl"
    odd.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n  ".join(lines))
    a, b = (opened(data_of(p), tmp_path, batch_size=3).train.batch(0) for p in (plain, odd))
    assert a == b


def test_a_split_keeps_its_sides_when_samples_come_and_go(tmp_path):
    def validation(count: int) -> set[bytes]:
        path = write(tmp_path / f"{count}.jsonl", *texts(count))
        data = opened(data_of(path, val_fraction=0.3), tmp_path, val_interval_steps=1)
        assert data.val is not None
        made = [data.val.batch(i) for i in range(len(data.val))]
        return {bytes(filter(None, row)) for b in made for row in b.inputs.tolist() if any(row)}

    few, many = validation(100), validation(200)
    assert few < many
    assert 15 < len(few) < 45


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    paths = [tmp_path / n for n in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for path, count in zip(paths, (4, 4, 5), strict=True):
        write(path, *texts(count))
    a, b, c = (opened(data_of(p), tmp_path).fingerprint for p in paths)
    assert a == b != c


def damages(cached: Path) -> Iterator[None]:
    whole = cached.read_bytes()
    for damaged in (b"", b"{}", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), whole + b"x"):
        cached.write_bytes(damaged)
        yield


def test_a_damaged_index_is_made_again(tmp_path):
    path = write(tmp_path / "data.jsonl", *texts(9))
    first = opened(data_of(path), tmp_path).train.batch(0)
    (cached,) = (tmp_path / "index").iterdir()
    whole = cached.read_bytes()
    for _ in damages(cached):
        assert opened(data_of(path), tmp_path).train.batch(0) == first
        assert cached.read_bytes() == whole


def test_a_good_index_is_used(tmp_path):
    path = write(tmp_path / "data.jsonl", *texts(9))
    opened(data_of(path), tmp_path)
    (cached,) = (tmp_path / "index").iterdir()
    before = cached.stat()
    opened(data_of(path), tmp_path)
    assert [p.name for p in (tmp_path / "index").iterdir()] == [cached.name]
    assert (cached.stat().st_ino, cached.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_that_changes_under_a_run_is_noticed(tmp_path):
    path = write(tmp_path / "data.jsonl", *texts(9))
    data = opened(data_of(path), tmp_path)
    with path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(ConfigError, match="changed"):
        data.train.batch(0)


# --- Made sources -------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["made", "indexed"])
def test_what_takes_long_the_first_time_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    told: list[str] = []
    monkeypatch.setattr(index, "PROGRESS_SECONDS", -1.0)
    monkeypatch.setattr(sources, "PROGRESS_SECONDS", 0.05)
    given: dict[str, Any] = {"name": "stdlib_docs"}
    if what == "indexed":
        given = {"path": str(write(tmp_path / "data.jsonl", *texts(5000)))}
    says = {
        "made": "reading this Python's docs, once: 0 s",
        "indexed": "indexing data.jsonl, once: 4,096 lines, 0.00 GB",
    }
    how: dict[str, Any] = {"tokenizer_folder": None, "cache_dir": tmp_path, "progress": told.append}
    open_data(data_of(**given), train_of(), 3, **how)
    assert told[0] == says[what]
    told.clear()
    open_data(data_of(**given), train_of(), 3, **how)
    assert not told


def test_stdlib_docs_are_made_again_where_damaged_and_once_otherwise(tmp_path):
    made, keys = stdlib_docs_folder(tmp_path), {"val_interval_steps": 10}
    made.mkdir()
    (made / "train.jsonl").write_bytes(b"\0" * 1000)
    data = opened(data_of(name="stdlib_docs", val_fraction=0.05), tmp_path, **keys)
    assert [p.name for p in made.iterdir()] == ["train.jsonl"]
    lines = (made / "train.jsonl").read_text("utf-8").splitlines()
    assert len(lines) > 2000
    assert data.val is not None
    assert 0.03 < len(data.val) / (len(data.train) + len(data.val)) < 0.07
    sample = json.loads(lines[len(lines) // 2])
    assert sample["prompt"].startswith(("def ", "async def ", "class "))
    assert sample["completion"] not in sample["prompt"]
    before = (made / "train.jsonl").stat().st_ino
    again = opened(data_of(name="stdlib_docs", val_fraction=0.05), tmp_path, **keys)
    assert again.fingerprint == data.fingerprint
    assert (made / "train.jsonl").stat().st_ino == before


def test_a_cache_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data\.name=stdlib_docs: cannot be written"):
        opened(data_of(name="stdlib_docs"), tmp_path / "file" / "cache")


def test_hub_says_what_it_needs(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.hub_id=null: must name a dataset"):
        opened(data_of(name="hub"), tmp_path)
    with pytest.raises(ConfigError) as caught:  # not installed, or there is no such dataset
        opened(data_of(name="hub", hub_id=str(tmp_path / "no-such-dataset")), tmp_path)
    assert caught.value.key == "data.hub_id"
    assert "mlx-memory-lab[hub]" in str(caught.value) or "cannot be loaded" in str(caught.value)


def test_hub_reads_a_dataset(tmp_path):
    pytest.importorskip("datasets", reason="the hub extra is not installed", exc_type=ImportError)
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", *texts(9))
    write(tmp_path / "set" / "valid.jsonl", *texts(4))
    data = data_of(name="hub", hub_id=str(tmp_path / "set"))
    made = opened(data, tmp_path / "cache", batch_size=2, val_interval_steps=1)
    assert made.val is not None
    assert (len(made.train), len(made.val)) == (5, 2)


def test_the_training_process_imports_nothing_heavy():
    code = (
        "import sys; import lab.data.dataset; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & set(sys.argv[1:])))"
    )
    heavy = [
        "hydra",
        "omegaconf",
        "wandb",
        "transformers",
        "datasets",
        "mlx",
        "tokenizers",
        "jinja2",
        "numpy",
    ]
    run = [sys.executable, "-c", code, *heavy]
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(run, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]"
