"""The token index: what each sample becomes, known before the first step."""

from __future__ import annotations

import json
import os
import subprocess
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Fast
from tokenizers import models, pre_tokenizers

from lab.config.schema import ConfigError
from lab.data import token_index
from lab.data.dataset import OpenData, measure_lengths, open_data
from lab.data.index import JsonLinesReader
from lab.data.split import IdLimit, Samples, Split
from lab.data.token_index import TokenIndex, open_token_index
from lab.data.tokenizer import load_tokenizer
from lab.data.tokenizer_files import tokenizer_fingerprint
from tests.data.test_data import data_of, texts, train_of, write

WORDS = ["</s>", "[UNK]", "user", "assistant", "a", "b", "rare"]
REFUSING = "{% for m in messages %}{{ raise_exception('no b') if m.content == 'b' }}a {% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder whose tokenizer knows seven words."""
    folder = tmp_path / "model"
    folder.mkdir()
    fast = Fast(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return folder


def index_of(path: Path, folder: Path | None = None, cache: Path | None = None) -> TokenIndex:
    cache = cache or path.parent / "cache"
    lines = JsonLinesReader(path, cache, "data.path")
    return open_token_index(
        lines, folder, mask_prompt=True, cache_dir=cache, progress=lambda _: None
    )


@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from(WORDS[4:]), min_size=1, max_size=9), min_size=9))
def test_it_holds_what_each_sample_becomes(
    tmp_path: Path, folder: Path, samples: list[list[str]]
) -> None:
    path = tmp_path / "data.jsonl"
    write(path, *({"prompt": words[0], "completion": " ".join(words[1:])} for words in samples))
    found = index_of(path, folder)
    lines = JsonLinesReader(path, tmp_path / "cache", "data.path")
    whole = Samples(Split(lines, range(len(lines))), load_tokenizer(folder), mask_prompt=True)
    tokens = [whole.tokens(position) for position in range(len(lines))]
    assert found.is_whole
    assert list(found.lengths) == [len(ids) for ids, _ in tokens]
    assert list(found.prompts) == [prompt for _, prompt in tokens]
    assert list(found.highest) == [max(ids) for ids, _ in tokens]


def test_it_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "data.jsonl", *texts(20))
    first = index_of(path)
    monkeypatch.setattr(subprocess, "Popen", None)  # a second making would need it
    again = index_of(path)
    assert list(again.lengths) == list(first.lengths)


def test_a_child_that_complains_much_is_not_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a pipe holds: a line for each file that it looks for as it imports."""
    monkeypatch.setenv("PYTHONVERBOSE", "2")
    assert len(index_of(write(tmp_path / "data.jsonl", *texts(20))).lengths) == 20


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja", "config.json"])
def test_another_tokenizer_or_template_is_another_index(folder: Path, name: str) -> None:
    before = tokenizer_fingerprint(folder)
    assert tokenizer_fingerprint(folder) == before
    (folder / name).write_text(json.dumps({"eos_token": "a", "eos_token_id": 4}))
    assert tokenizer_fingerprint(folder) != before


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", *texts(20))
    first = list(index_of(path).lengths)
    [cached] = (tmp_path / "cache" / "tokens").iterdir()
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    assert list(index_of(path).lengths) == first


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_cache_costs_time_only(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", *texts(20))
    cache = tmp_path / "locked"
    cache.mkdir(mode=0o500)
    assert len(index_of(path, cache=cache).lengths) == 20


def test_a_cache_that_cannot_be_a_folder_costs_time_only(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", *texts(20))
    (tmp_path / "file").write_text("")
    assert len(index_of(path, cache=tmp_path / "file").lengths) == 20


def test_a_sample_that_cannot_be_tokenised_is_found_with_its_line(
    tmp_path: Path, folder: Path
) -> None:
    (folder / "chat_template.jinja").write_text(REFUSING)
    chats = [[{"role": "user", "content": c}, {"role": "assistant", "content": "a"}] for c in "aab"]
    path = write(tmp_path / "data.jsonl", *({"messages": chat} for chat in chats))
    with pytest.raises(ConfigError, match="line 3: the chat template refuses it: no b") as error:
        index_of(path, folder)
    assert error.value.key == "data.path"


def test_of_a_large_file_some_samples_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_index, "WHOLE_BYTES", 100)
    monkeypatch.setattr(token_index, "SAMPLED", 7)
    path = write(tmp_path / "data.jsonl", *texts(50))
    lines = JsonLinesReader(path, tmp_path / "cache", "data.path")
    found = token_index._tokenised(lines, None, mask_prompt=True)
    assert not found.is_whole
    assert 7 <= len(found.lengths) <= 14
    assert list(found.within(range(20, 40))) == [
        at for at, row in enumerate(found.rows) if 20 <= row < 40
    ]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 90)), min_size=1, max_size=20),
    st.integers(8, 64),
)
def test_what_is_said_of_the_samples_is_counted(
    rows: list[tuple[int, int]], max_length: int
) -> None:
    """A sample counts in the loss from after its prompt, and never its first token."""
    lengths, prompts = (memoryview(array("i", column)) for column in zip(*rows, strict=True))
    found = measure_lengths(
        TokenIndex(range(len(rows)), 5 * len(rows), lengths, prompts, lengths), max_length
    )
    counted = [list(range(length))[:max_length][max(prompt, 1) :] for length, prompt in rows]
    assert found == {
        "file_samples": 5 * len(rows),
        "measured": len(rows),
        "median_tokens": sorted(lengths)[(len(rows) - 1) // 2],
        "longest_tokens": max(lengths),
        "cut": sum(length > max_length for length, _ in rows),
        "empty": sum(not tokens for tokens in counted),
    }


# --- Ids against a table ------------------------------------------------------------------------


def limit(rows: int, max_length: int = 64) -> IdLimit:
    return IdLimit(rows=rows, table="embed_tokens", max_length=max_length, folder="model")


def with_a_rare_word(tmp_path: Path, folder: Path, **keys: object) -> OpenData:
    """Three samples, of which the second has the tokenizer's highest id, 6, as its third token."""
    path = write(tmp_path / "data.jsonl", {"text": "a b"}, {"text": "a b rare"}, {"text": "b a"})
    train = train_of(batch_size=1, **keys)
    return open_data(data_of(path), train, 3, tokenizer_folder=folder, cache_dir=tmp_path / "cache")


def test_an_id_beyond_the_table_is_refused_with_its_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        with_a_rare_word(tmp_path, folder).check_ids(limit(rows=6))
    assert error.value.key == "model.path"
    for part in ("token id 6 ('rare')", "line 2 of data.jsonl", "embed_tokens has 6 rows"):
        assert part in error.value.allowed


def test_what_is_cut_off_may_be_any_id(tmp_path: Path, folder: Path) -> None:
    data = with_a_rare_word(tmp_path, folder)
    data.check_ids(limit(rows=6, max_length=2))


def test_ids_within_the_table_cost_no_check_later(tmp_path: Path, folder: Path) -> None:
    data = with_a_rare_word(tmp_path, folder)
    data.check_ids(limit(rows=7))
    assert data.train_samples.id_limit is None


def test_what_an_estimate_left_out_is_refused_when_it_is_read(tmp_path: Path, folder: Path) -> None:
    data = with_a_rare_word(tmp_path, folder)
    whole = data.train_tokens
    kept = next(at for at in range(3) if whole.highest[at] < 6)
    one = slice(kept, kept + 1)
    estimate = TokenIndex(
        range(kept, kept + 1), 3, whole.lengths[one], whole.prompts[one], whole.highest[one]
    )
    data = replace(data, train_tokens=estimate)
    data.check_ids(limit(rows=6))
    with pytest.raises(ConfigError, match="line 2"):
        [data.train.batch(index) for index in range(3)]
