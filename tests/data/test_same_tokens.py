"""Token ids and masks against mlx-lm's own: its tokenizer, its data sets, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Fast

from lab.config.schema import ConfigError
from lab.data.errors import SampleError
from lab.data.samples import parse, tokenise
from lab.data.tokenizer import FolderTokenizer, MlxLmTokenizer, Tokenizer, load_tokenizer
from tests.data.chat_templates import NAMED, SHAPES

SPECIAL = [
    "<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>",
    "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>",
]  # fmt: skip
CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
    "unk_token": "<unk>", "pad_token": "<pad>", "image_token": "<|endoftext|>",
}  # fmt: skip
CORPUS = ["user assistant system the tea is red and the glass is blue, what is 12 + 30?\n\n"] * 9

# --- Rows -----------------------------------------------------------------------------------------


def turns(*texts: Any) -> list[dict[str, Any]]:
    """User and assistant in turn; a text that starts with ``system:`` comes before them."""
    roles = iter(["user", "assistant"] * len(texts))
    return [
        {"role": "system", "content": text.removeprefix("system:")}
        if isinstance(text, str) and text.startswith("system:")
        else {"role": next(roles), "content": text}
        for text in texts
    ]


def call(arguments: Any, **message: Any) -> dict[str, Any]:
    function = {"name": "look_up", "arguments": arguments}
    calls = [{"id": "call00000", "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls} | message


TOOLS = [
    {"type": "function", "function": {"name": "look_up", "description": "Looks <up> é & 'more'",
     "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}}},
    {"type": "function", "function": {"name": "stop", "parameters": {}}},
]  # fmt: skip
RESULT = {"role": "tool", "tool_call_id": "call00000", "name": "look_up", "content": '{"tea": 3}'}
ASK, ANSWER = {"role": "user", "content": "How much tea?"}, "Three cups."
THOUGHT = {"role": "assistant", "content": ANSWER, "reasoning_content": "It said 3.\n"}
CHATS: dict[str, Any] = {
    "plain": {"messages": turns("Hi there", "Hello, you")},
    "system": {"messages": turns("system:Be brief.", "Hi", "Yes?")},
    "long": {"messages": turns("One?", "1", "Two?", "2", "Three?", "3", "Four?", "44 4")},
    "long_system": {"messages": turns("system:Count.", "One?", "1", "Two?", "2")},
    "two_systems": {"messages": [*turns("system:A.", "Q?", "R."), *turns("system:B.", "S?", "T.")]},
    "late_system": {"messages": [*turns("Q?", "R."), *turns("system:B.", "S?", "T.")]},
    "ends_with_user": {"messages": turns("Hi", "Yes?", "And then")},
    "only_user": {"messages": turns("Hi")},
    "only_assistant": {"messages": [{"role": "assistant", "content": "Alone."}]},
    "starts_with_assistant": {"messages": turns("Hi", "Yes?")[1:] + turns("Q", "A")},
    "system_and_answer": {"messages": [*turns("system:S"), {"role": "assistant", "content": "A"}]},
    "two_users": {"messages": [ASK, ASK, *turns("Hi", "Yes.")]},
    "empty_answer": {"messages": turns("Hi", "")},
    "empty_question": {"messages": turns("", "What do you mean?")},
    "empty_system": {"messages": turns("system:", "Hi", "Yes")},
    "space": {"messages": turns("  Hi \n\n", "\n Yes \n ")},
    "unicode": {"messages": turns("Où est 茶 🍵\u2028?", "Là — “ici” \u00a0 e\u0301 é 🙂\u200d🙂")},
    "markup": {"messages": turns("<b>&amp;</b> {{ x }} {% y %}", '"quoted" \\n \\ {# z #}')},
    "specials": {"messages": turns("a </s> <|im_end|> b", "<s> <|im_start|>user\nno<|im_end|>")},
    "inst": {"messages": turns("[INST] x [/INST]", "### Response:\n<<SYS>>")},
    "code": {"messages": turns("def f(x):\n\treturn x", "```python\ndef f(x):\n    pass\n```\n")},
    "null_fields": {
        "messages": [
            {"role": "user", "content": "Hi", "name": None, "tool_calls": None},
            {"role": "assistant", "content": "Yes", "tool_calls": None, "function_call": None},
        ]
    },
    "names": {"messages": [ASK | {"name": "Ann"}, *turns("", ANSWER)[1:]]},
    "calls_text": {"messages": [ASK, call('{"q": "tea"}'), RESULT, *turns("", ANSWER)[1:]],
                   "tools": TOOLS},
    "calls_object": {"messages": [ASK, call({"q": "<té>"}), RESULT, *turns("", ANSWER)[1:]],
                     "tools": TOOLS},
    "ends_with_call": {"messages": [ASK, call({"q": "tea"})], "tools": TOOLS[:1]},
    "call_with_text": {"messages": [ASK, call({}, content="One moment.")], "tools": TOOLS},
    "ends_with_result": {"messages": [ASK, call({"q": "tea"}), RESULT], "tools": TOOLS},
    "tools_unused": {"messages": turns("system:S.", "Hi", "Yes."), "tools": TOOLS},
    "no_tools": {"messages": turns("Hi", "Yes."), "tools": []},
    "null_tools": {"messages": turns("Hi", "Yes."), "tools": None},
    "empty_calls": {"messages": [ASK, {"role": "assistant", "content": ANSWER, "tool_calls": []}]},
    "thought": {"messages": [ASK, THOUGHT]},
    "old_thought": {"messages": [ASK, THOUGHT, *turns("And?", "No.")]},
    "other_name": {"messages": [ASK, {"role": "assistant", "content": ANSWER, "thinking": "Hm."}]},
    "thought_inside": {"messages": turns("Hi", "<think>\nHm.\n</think>\n\nYes.")},
    "thought_and_call": {"messages": [ASK, call({}, reasoning_content="Look."), RESULT, THOUGHT]},
    "developer": {"messages": [{"role": "developer", "content": "Be kind."}, *turns("Hi", "Yes")]},
    "numbers": {"messages": turns("0 1", "0", "12345678", "00")},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": " Hi "}]},
                           {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}]},
}  # fmt: skip
PAIRS: dict[str, Any] = {
    "plain": {"prompt": "How much tea?", "completion": ANSWER},
    "empty_completion": {"prompt": "How much tea?", "completion": ""},
    "empty_prompt": {"prompt": "", "completion": "Tea."},
    "space": {"prompt": "\n a \n", "completion": " 0 \n"},
    "tools": {"prompt": "Q", "completion": "A", "tools": TOOLS},
    "unicode": {"prompt": "茶?", "completion": "🍵 é"},
}
TEXTS = [
    "The tea is red.",
    "so a <end_of_turn> b </s>  c",
    " a  b\n\n",
    "<s>a</s>",
    "é 茶 🍵 </s>",
    "<|im_start|>user\nx<|tool|>y",
]


def test_there_are_enough_of_both():
    assert len(SHAPES) + len(NAMED) >= 50
    assert len(CHATS) >= 25
    for row in CHATS.values():  # all are what a file may hold
        parse(json.dumps(row).encode())


# --- Folders --------------------------------------------------------------------------------------


def byte_level(special: list[str] | None = None) -> Fast:
    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=alphabet, special_tokens=special or [], show_progress=False
    )
    fast.train_from_iterator(CORPUS, trainer)
    return fast


@pytest.fixture(scope="module")
def common() -> str:
    """A byte-level tokenizer that puts ``<s>`` before texts, as ``tokenizer.json``."""
    fast = byte_level(SPECIAL)
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", fast.token_to_id("<s>"))]
    )
    return fast.to_str()


def folder(path: Path, tokenizer: str, settings: Any, **files: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "tokenizer.json").write_text(tokenizer)
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


def mlx_lms(path: Path) -> Any:
    from mlx_lm.tokenizer_utils import load

    return load(path)


@pytest.fixture(autouse=True)
def same_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one difference on purpose: the lab's templates always write the same day."""
    from transformers.utils import chat_template_utils

    class Day(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Day:
            return cls(2024, 7, 26)

    monkeypatch.setattr(chat_template_utils, "datetime", Day)


# --- Comparing ------------------------------------------------------------------------------------


def attempt(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # noqa: BLE001  a template may raise anything
        return error


def check_chat(ours: Tokenizer, theirs: Any, row: dict[str, Any]) -> None:
    from mlx_lm.tuner.datasets import ChatDataset

    check(ours, theirs, row, "chat", lambda mask: ChatDataset([row], theirs, mask_prompt=mask))


def check_pair(ours: Tokenizer, theirs: Any, row: dict[str, Any]) -> None:
    from mlx_lm.tuner.datasets import CompletionsDataset

    keys = ("prompt", "completion")
    check(
        ours, theirs, row, "completion", lambda mask: CompletionsDataset([row], theirs, *keys, mask)
    )


def check(
    ours: Tokenizer, theirs: Any, row: dict[str, Any], form: str, data_set: Callable[[bool], Any]
) -> None:
    """The same ids and mask, the same refusals, and the right mask where mlx-lm's is wrong."""
    before = json.dumps(row)
    for mask in (False, True):
        expected = attempt(lambda mask=mask: data_set(mask).process(row))
        got = attempt(lambda mask=mask: tokenise(row, form, ours, mask))
        if mask and len(row.get("messages", "ab")) == 1:  # mlx-lm refuses those
            expected = attempt(lambda: data_set(False).process(row))
        if isinstance(expected, Exception):
            assert isinstance(got, SampleError), (expected, got)
            continue
        assert not isinstance(got, Exception), got
        assert got[0] == expected[0]
        if not right(theirs, row, *expected):
            check_mask(theirs, row, *got)
        else:
            assert got[1] == expected[1]
    assert json.dumps(row) == before


def right(theirs: Any, row: dict[str, Any], ids: list[int], masked: int) -> bool:
    """Whether mlx-lm's mask is that of a prompt with which the sample begins."""
    if masked == 0:
        return True
    messages = row.get("messages") or turns(row["prompt"], "")
    answered = "messages" not in row or messages[-1]["role"] == "assistant"
    prompt = theirs.apply_chat_template(
        messages[:-1], tools=row.get("tools"), add_generation_prompt=answered
    )
    return ids[: len(prompt)] == prompt


def check_mask(theirs: Any, row: dict[str, Any], ids: list[int], masked: int) -> None:
    """All of the last message counts as far as it was written, and no other message does."""
    *before, last = row.get("messages") or turns(row["prompt"], row["completion"])
    whole, counted = theirs.decode(ids), theirs.decode(ids[masked:])
    said = last["content"] if isinstance(last["content"], str) else ""
    said = said.rpartition("</think>")[2].strip()
    if said and whole.rstrip().endswith(said):
        assert said in counted
    for message in before:
        if isinstance(message["content"], str) and len(message["content"].strip()) > 3:
            assert message["content"].strip() not in counted.replace(said, "")


@pytest.mark.parametrize("name", SHAPES)
def test_tokens_and_masks_are_mlx_lms(tmp_path, common, name):
    folder(tmp_path, common, CONFIG | {"chat_template": SHAPES[name]})
    ours, theirs = load_tokenizer(tmp_path), mlx_lms(tmp_path)
    assert isinstance(ours, FolderTokenizer)
    for row in CHATS.values():
        check_chat(ours, theirs, row)
    for row in PAIRS.values():
        check_pair(ours, theirs, row)


@pytest.mark.parametrize("place", ["config", "files"])
@pytest.mark.parametrize("name", NAMED)
def test_named_templates_are_chosen_as_mlx_lm_does(tmp_path, common, name, place):
    texts, config = NAMED[name], dict(CONFIG)
    if place == "config":
        listed = [{"name": key, "template": text} for key, text in texts.items()]
        config["chat_template"] = listed  # type: ignore[assignment]
    else:
        config["chat_template"] = "overruled by the files"
        (tmp_path / "additional_chat_templates").mkdir()
        for key, text in texts.items():
            more = "chat_template" if key == "default" else f"additional_chat_templates/{key}"
            (tmp_path / f"{more}.jinja").write_text(text)
    folder(tmp_path, common, config)
    ours, theirs = load_tokenizer(tmp_path), mlx_lms(tmp_path)
    for row in CHATS.values():
        if name == "tool_use_alone" and row.get("tools") is None:
            with pytest.raises(ConfigError, match=r"chat templates \['tool_use'\]"):
                tokenise(row, "chat", ours, False)
        else:
            check_chat(ours, theirs, row)


def test_templates_that_prompt_otherwise_are_masked_where_the_answer_begins(tmp_path, common):
    """The kinds in which mlx-lm's mask is wrong, with what counts."""
    system = CHATS["system"] | {"messages": turns("system:Be brief.", "How are you?", "Well, well")}
    cases = {
        "mistral_v3": (system, "Well, well</s>"),
        "deepseek_r1": (CHATS["plain"], "Hello, you</s>"),
        "prompt_of_its_own": (CHATS["plain"], "Hello, you\n"),
        "counts_messages": (CHATS["plain"], "Hello, you\n"),
        "skips_empty": (CHATS["empty_answer"], ""),
    }
    for name, (row, counted) in cases.items():
        folder(tmp_path, common, CONFIG | {"chat_template": SHAPES[name]})
        theirs = mlx_lms(tmp_path)
        ids, masked = tokenise(row, "chat", load_tokenizer(tmp_path), True)
        assert theirs.decode(ids[masked:]).lstrip() == counted, name


# --- Special tokens declared in every place -------------------------------------------------------


def token(content: str, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": content, "special": True} | plain | flags


def decoder(tokenizer: str, *more: dict[str, Any]) -> dict[str, Any]:
    listed = json.loads(tokenizer)["added_tokens"]
    known = {str(t.pop("id")): t for t in listed}
    count = Fast.from_str(tokenizer).get_vocab_size()
    return known | {str(count + i): t for i, t in enumerate(more)}


# What is declared beside tokenizer.json, and whether the fast tokenizer holds it.
PLACES: dict[str, tuple[Callable[[str], tuple[dict[str, Any], dict[str, Any]]], bool]] = {
    "nowhere": (lambda _: ({}, {}), True),
    "decoder_same": (lambda t: ({"added_tokens_decoder": decoder(t)}, {}), True),
    "decoder_more": (
        lambda t: ({"added_tokens_decoder": decoder(t, token("<|tool|>"))}, {}),
        False,
    ),
    "decoder_flags": (
        lambda t: ({"added_tokens_decoder": decoder(t, token("<|tool|>", lstrip=True))}, {}),
        False,
    ),
    "decoder_other_flags": (
        lambda t: (
            {"added_tokens_decoder": decoder(t) | {"4": token("<|im_start|>", rstrip=True)}},
            {},
        ),
        False,
    ),
    "additional": (lambda _: ({"additional_special_tokens": ["<|tool|>", "<s>"]}, {}), False),
    "additional_known": (lambda _: ({"additional_special_tokens": ["<s>"]}, {}), True),
    "extra_list": (lambda _: ({"extra_special_tokens": ["<|tool|>"]}, {}), False),
    "extra_named": (lambda _: ({"extra_special_tokens": {"tool_token": "<|tool|>"}}, {}), False),
    "eos": (lambda _: ({"eos_token": "<|tool|>"}, {}), False),
    "eos_of_the_vocabulary": (lambda _: ({"eos_token": "t"}, {}), False),
    "pad": (lambda _: ({"pad_token": "<|tool|>"}, {}), False),
    "bos_none": (lambda _: ({"bos_token": None}, {}), True),
    "image": (lambda _: ({"image_token": "<|tool|>"}, {}), False),
    "added_tokens": (lambda _: ({}, {"added_tokens": {"<|tool|>": 340}}), False),
    "added_tokens_known": (lambda _: ({}, {"added_tokens": {"<s>": 0}}), True),
    "map": (lambda _: ({}, {"special_tokens_map": {"eos_token": token("<|tool|>")}}), False),
    "map_wins": (lambda _: ({}, {"special_tokens_map": {"eos_token": "<|im_end|>"}}), True),
    "map_overruled": (
        lambda t: (
            {"added_tokens_decoder": decoder(t)},
            {"special_tokens_map": {"eos_token": "<|im_end|>"}},
        ),
        True,
    ),
    "map_additional": (
        lambda _: ({}, {"special_tokens_map": {"additional_special_tokens": ["<|tool|>"]}}),
        False,
    ),
    "split": (lambda _: ({"split_special_tokens": True}, {}), False),
    "no_class": (lambda _: ({"tokenizer_class": None}, {}), True),
    "bytes_called_llama": (lambda _: ({"tokenizer_class": "LlamaTokenizerFast"}, {}), True),
    "another_model": (lambda _: ({}, {"config": {"model_type": "qwen2"}}), False),
}


# Every named token, and one conversation.
VARIABLES = (
    "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}{{ image_token }}{{ tool_token }}"
    "{{ mask_token }}{{ enable_thinking }}<|tool|> <|tool|>" + SHAPES["chatml"]
)


def check_folder(path: Path) -> Tokenizer:
    """Texts, conversations and the EOS token come out as mlx-lm's."""
    from mlx_lm.tuner.datasets import TextDataset

    ours, theirs = load_tokenizer(path), mlx_lms(path)
    assert ours.eos_id == theirs.eos_token_id
    for text in TEXTS:
        row = {"text": text}
        assert tokenise(row, "text", ours, True) == TextDataset([row], theirs).process(row), text
    for row in (CHATS["specials"], CHATS["unicode"], CHATS["markup"]):
        check_chat(ours, theirs, row)
    return ours


@pytest.mark.parametrize("place", PLACES)
def test_special_tokens_count_wherever_they_are_declared(tmp_path, common, place):
    declared, fast = PLACES[place]
    config, files = declared(common)
    folder(tmp_path, common, CONFIG | {"chat_template": VARIABLES} | config, **files)
    assert isinstance(check_folder(tmp_path), FolderTokenizer if fast else MlxLmTokenizer)


def qwen2(eos: str | AddedToken = "</s>", **changed: Any) -> Fast:
    from tokenizers import Regex
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    fast = byte_level()
    fast.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(
        Regex(changed.get("regex", PRETOKENIZE_REGEX)), behavior="isolated"
    )
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    rest = [token for token in SPECIAL if token != "</s>"]
    fast.add_special_tokens([eos, *rest])  # type: ignore[list-item]
    return fast


def gpt2(digits: bool = False) -> Fast:
    fast = byte_level(SPECIAL)
    if digits:
        parts = [pre_tokenizers.Digits(individual_digits=True), fast.pre_tokenizer]
        fast.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return fast


def gemma() -> Fast:
    special = ["<unk>", "<pad>", "<bos>", "<eos>", "<mask>", *SPECIAL]
    vocabulary = [*dict.fromkeys(special), *(f"<0x{i:02X}>" for i in range(256)), *"▁abcdetris"]
    fast = Fast(
        models.BPE(
            {word: i for i, word in enumerate(vocabulary)}, [], unk_token="<unk>", fuse_unk=True,
            byte_fallback=True,
        )
    )  # fmt: skip
    fast.normalizer = normalizers.Replace(" ", "▁")
    fast.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    fast.add_special_tokens(list(dict.fromkeys(special)))
    return fast


def words() -> Fast:
    vocabulary = {word: i for i, word in enumerate(["<unk>", "The", "tea", "is", "a", "b", "user"])}
    fast = Fast(models.WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.add_special_tokens(SPECIAL)
    return fast


def unigram() -> Fast:
    pieces = [("<unk>", 0.0), *((piece, -2.0) for piece in ["▁", "▁the", "t", "e", "a", "▁a", "s"])]
    fast = Fast(models.Unigram(pieces, unk_id=0))
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.add_special_tokens([*SPECIAL, AddedToken("  ", normalized=True)])  # type: ignore[list-item]
    return fast


def padded() -> Fast:
    fast = words()
    fast.enable_padding(pad_id=3, pad_token="<pad>", length=64)
    fast.enable_truncation(5)
    return fast


def listed(count: int | None) -> Callable[[], dict[str, Any]]:
    """Settings that list the first added tokens."""
    return lambda: (
        QWEN | {"added_tokens_decoder": dict(list(decoder(qwen2().to_str()).items())[:count])}
    )


QWEN = {"tokenizer_class": "Qwen2Tokenizer", "unk_token": None}
GEMMA = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>"}
KINDS: dict[str, tuple[Callable[[], Fast], Any, bool]] = {
    "qwen2": (qwen2, QWEN, True),
    "qwen2_other_regex": (lambda: qwen2(regex=r"\p{N}{1,3}|\s+"), QWEN, False),
    "qwen2_prefix": (qwen2, QWEN | {"add_prefix_space": True}, False),
    "qwen2_eos_strips": (lambda: qwen2(AddedToken("</s>", lstrip=True, special=True)), QWEN, False),
    "qwen2_listed": (qwen2, listed(None), True),
    "qwen2_lists_fewer": (qwen2, listed(-1), False),
    "gpt2": (gpt2, {"tokenizer_class": "GPT2Tokenizer"}, True),
    "gpt2_own_names": (gpt2, {"tokenizer_class": "GPT2Tokenizer", "bos_token": ...}, False),
    "gpt2_digits": (lambda: gpt2(True), {"tokenizer_class": "GPT2TokenizerFast"}, False),
    "digits": (lambda: gpt2(True), {}, True),
    "gemma": (gemma, GEMMA, False),
    "gemma_called_llama": (gemma, {"tokenizer_class": "LlamaTokenizer"}, False),
    "words": (words, {}, True),
    "unigram": (unigram, {}, True),
    "padded": (padded, {}, True),
    "padded_alone": (padded, {"pad_token": None}, False),
    "unknown_class": (gpt2, {"tokenizer_class": "SomeTokenizer"}, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_of_every_kind_give_mlx_lms_ids(tmp_path, kind):
    make, changed, fast = KINDS[kind]
    changed = changed() if callable(changed) else changed
    config = {k: v for k, v in (CONFIG | changed).items() if v is not ...}
    folder(tmp_path, make().to_str(), config | {"chat_template": VARIABLES})
    assert isinstance(check_folder(tmp_path), FolderTokenizer if fast else MlxLmTokenizer)


def test_a_renderer_in_python_is_mlx_lms(tmp_path, common):
    """mlx-lm's own data sets cannot use those; its tokenizer can."""
    folder(tmp_path, common, CONFIG | {"chat_template_type": "deepseek_v32"})
    ours, theirs = load_tokenizer(tmp_path), mlx_lms(tmp_path)
    assert isinstance(ours, MlxLmTokenizer)
    for messages in (row["messages"] for row in (CHATS["plain"], CHATS["long_system"])):
        assert ours.encode_chat(messages) == theirs.apply_chat_template(messages)
    with pytest.raises(SampleError, match="refuses it"):
        ours.encode_chat([{"role": "nobody", "content": "?"}])
