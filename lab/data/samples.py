"""Parse one line of a JSONL file and tokenise it.

The formats are mlx-lm's: ``{"text"}``, ``{"prompt", "completion"}`` and ``{"messages"}``, the last
two with an optional ``"tools"``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lab.data.errors import SampleError
from lab.data.tokenizer import Tokenizer

# In order of precedence; a line may have more keys than its format needs.
FORMATS = {"completion": ("prompt", "completion"), "chat": ("messages",), "text": ("text",)}
ALLOWED = 'one of {"text"}, {"prompt", "completion"} or {"messages"}'


def parse(line: bytes, form: str | None = None) -> tuple[dict[str, Any], str]:
    """Parse and validate one line.

    Args:
        line: the JSON text of one sample, UTF-8.
        form: the required format; ``None`` detects it.

    Returns:
        The sample and its format, a key of :data:`FORMATS`.

    Raises:
        SampleError: not a valid sample; the message says what is allowed.
    """
    sample = _json_object(line)
    if form is None:
        form = next((f for f, keys in FORMATS.items() if all(k in sample for k in keys)), None)
        if form is None:
            raise SampleError(f"has the keys {_names(sample)}; must be {ALLOWED}")
    missing = [key for key in FORMATS[form] if key not in sample]
    if missing:
        raise SampleError(
            f"has no {_names(missing)}; every line must have the keys of the first, "
            f"{_names(FORMATS[form])}"
        )
    _check_values(sample, form)
    return sample, form


def _names(keys: Any) -> str:
    return ", ".join(f'"{key}"' for key in list(keys)[:8]) or "(none)"


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        sample = json.loads(line.decode("utf-8"))
        if b"\\u" in line:  # a lone surrogate is valid JSON, but cannot be encoded
            json.dumps(sample, ensure_ascii=False).encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise SampleError(f"must be UTF-8 text: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise SampleError("must be a JSON object, this one is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise SampleError(f"must be a JSON object: {error.msg} at column {error.colno}") from None
    except ValueError as error:  # an integer of too many digits
        raise SampleError(f"must be a JSON object: {error}") from None
    if not isinstance(sample, dict):
        raise SampleError(f"must be a JSON object, not a JSON {type(sample).__name__}")
    return sample


def _check_values(sample: dict[str, Any], form: str) -> None:
    if form == "chat":
        _check_messages(sample["messages"])
    else:
        for key in FORMATS[form]:
            if not isinstance(sample[key], str):
                raise SampleError(f'"{key}" must be text, not {type(sample[key]).__name__}')
    tools = sample.get("tools")
    if tools is not None and not _objects(tools):
        raise SampleError('"tools" must be a list of objects')


def _objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _check_messages(messages: Any) -> None:
    if not _objects(messages) or not messages:
        raise SampleError('"messages" must be a list of at least one {"role", "content"} object')
    for number, message in enumerate(messages, 1):
        if not isinstance(message.get("role"), str):
            raise SampleError(f'message {number} must have a "role" that is text')
        content = message.get("content")
        if content is None and message.get("tool_calls"):
            continue
        if not isinstance(content, str) and not (content and _objects(content)):
            raise SampleError(f'message {number} must have a "content" that is text')


def tokenise(
    sample: dict[str, Any], form: str, tokenizer: Tokenizer, mask_prompt: bool
) -> tuple[list[int], int]:
    """Tokenise a sample and measure its prompt.

    Both are those of mlx-lm's ``TextDataset``, ``CompletionsDataset`` and ``ChatDataset``, but:

    - mlx-lm masks as many tokens as the prompt has by itself, also where the sample does not begin
      with these tokens (the template puts a thinking block, or the system prompt, where the last
      message is; a token joins the prompt's end and the answer's start), and so counts parts of the
      prompt or masks parts of the answer. Here the prompt ends where the answer begins.
    - mlx-lm refuses a conversation of one message with ``mask_prompt``; here all of it counts.
    - mlx-lm refuses prompts and conversations without a chat template; here they are lines.

    Returns:
        Token ids and the number of prompt tokens, which do not count in the loss; 0 for plain text
        and without ``mask_prompt``. Where the template writes nothing for the answer no token
        counts.

    Raises:
        SampleError: the chat template refuses the sample, or the tokenizer fails on it.
    """
    if form == "text":
        return _closed(tokenizer.encode(sample["text"]), tokenizer), 0
    messages, tools = _messages(sample, form), sample.get("tools")
    whole = tokenizer.encode_chat(messages, tools)
    if whole is None:
        return _without_template(sample, form, tokenizer, mask_prompt)
    if not mask_prompt or len(messages) == 1:  # templates refuse an empty conversation
        return whole, 0
    return whole, _prompt_length(whole, messages, tools, tokenizer)


def _prompt_length(
    whole: list[int], messages: list[dict[str, Any]], tools: Any, tokenizer: Tokenizer
) -> int:
    """The number of tokens before the last message's own."""
    *before, last = messages
    answered = last["role"] == "assistant"
    prompt = tokenizer.encode_chat(before, tools, add_generation_prompt=answered) or []
    common = _common_prefix(prompt, whole)
    if common == len(prompt):
        return common
    # Another answer in the same place shows where this one begins.
    said = last.get("content")
    other = "1" if isinstance(said, str) and said.lstrip().startswith("0") else "0"
    try:
        changed = tokenizer.encode_chat([*before, {"role": last["role"], "content": other}], tools)
    except SampleError:
        return common
    return max(common, _common_prefix(changed or [], whole))


def _messages(sample: dict[str, Any], form: str) -> list[dict[str, Any]]:
    if form == "chat":
        return sample["messages"]
    return [
        {"role": "user", "content": sample["prompt"]},
        {"role": "assistant", "content": sample["completion"]},
    ]


def _without_template(
    sample: dict[str, Any], form: str, tokenizer: Tokenizer, mask_prompt: bool
) -> tuple[list[int], int]:
    if form == "completion":
        prompt, completion = sample["prompt"], sample["completion"]
    else:
        *before, last = messages = sample["messages"]
        if not all(isinstance(m.get("content") or "", str) for m in messages):
            raise SampleError("content in parts needs a chat template, which this model has not")
        prompt = "".join(f"{m['role']}: {m.get('content') or ''}\n" for m in before)
        prompt, completion = f"{prompt}{last['role']}: ", last.get("content") or ""
    whole = _closed(tokenizer.encode(prompt + completion), tokenizer)
    return whole, _common_prefix(tokenizer.encode(prompt), whole) if mask_prompt else 0


def _closed(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    return ids if ids and ids[-1] == tokenizer.eos_id else [*ids, tokenizer.eos_id]


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    if list(right[: len(left)]) == list(left):  # nearly always
        return len(left)
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
