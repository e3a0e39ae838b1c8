"""Tokenizers without transformers, whose import costs 1 s and 100 MB of the training process.

The ids are those of mlx-lm's own tokenizer, for texts and for conversations. What the fast
tokenizer cannot hold goes through mlx-lm's. Two things differ on purpose: ``strftime_now`` in a
chat template gives a fixed day, so that a run can be replayed, and where no tokenizer file names an
EOS token the model's own config does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lab.config.schema import ConfigError
from lab.data.errors import SampleError
from lab.data.tokenizer_files import (
    by_name,
    damaged,
    named_tokens,
    read_json,
    read_settings,
    template_texts,
    unlike_transformers,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Fast

    from lab.data.template import ChatTemplate

Messages = Sequence[dict[str, Any]]
Tools = Sequence[dict[str, Any]] | None

# mlx-lm sets enable_thinking for a vocabulary that has all tokens of one of these.
_THINKING = (
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|channel>", "<channel|>"),
    ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
)


class Tokenizer(Protocol):
    """The interface that data preparation needs; every id is below ``vocab_size``."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def has_chat_template(self) -> bool: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens the tokenizer adds (such as BOS).

        Raises:
            SampleError: the tokenizer fails on the text.
        """
        ...

    def encode_chat(
        self, messages: Messages, tools: Tools = None, add_generation_prompt: bool = False
    ) -> list[int] | None:
        """Token ids of a rendered conversation, or ``None`` without a chat template.

        Raises:
            SampleError: the template refuses the conversation, or the tokenizer its text.
            ConfigError: key ``model.path``; the template is damaged.
        """
        ...

    def token_of(self, token_id: int) -> str:
        """The token's own text, for messages."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, special ones too, to be shown."""
        ...


class ByteTokenizer:
    """UTF-8 bytes are the ids, 256 is EOS; ids up to 288 are unused padding of the vocabulary."""

    vocab_size = 288
    eos_id = 256
    has_chat_template = False

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def encode_chat(
        self,
        messages: Messages,  # noqa: ARG002
        tools: Tools = None,  # noqa: ARG002
        add_generation_prompt: bool = False,  # noqa: ARG002
    ) -> None:
        return None

    def token_of(self, token_id: int) -> str:
        return chr(token_id) if token_id < self.eos_id else "<eos>"

    def decode(self, ids: Sequence[int]) -> str:
        text = bytes(i for i in ids if i < self.eos_id).decode("utf-8", "replace")
        return text + "<eos>" * (self.eos_id in ids)


class FolderTokenizer:
    """The fast tokenizer of a model folder: ``tokenizer.json`` and the files beside it.

    Raises:
        ConfigError: key ``model.path``; a damaged file, or no EOS token.
    """

    def __init__(self, path: Path, fast: Fast, settings: dict[str, Any]) -> None:
        self._fast = fast
        fast.no_truncation()
        fast.no_padding()
        # Added tokens may leave a gap above the base vocabulary.
        added = max(fast.get_added_tokens_decoder(), default=-1)
        self.vocab_size = max(fast.get_vocab_size(with_added_tokens=False), added + 1)
        named = named_tokens(settings)
        end = named.get("eos_token")
        self.eos_id = _eos_id(path, fast.token_to_id(end) if end else None)
        thinks = any(all(fast.token_to_id(t) is not None for t in pair) for pair in _THINKING)
        variables = named | {"enable_thinking": thinks}
        self._templates = _ChatTemplates(path, template_texts(path, settings), variables)
        self.has_chat_template = bool(self._templates)

    def encode(self, text: str) -> list[int]:
        return _guarded(lambda: self._fast.encode(text).ids)

    def encode_chat(
        self, messages: Messages, tools: Tools = None, add_generation_prompt: bool = False
    ) -> list[int] | None:
        if not self._templates:
            return None
        text = self._templates.render(messages, tools, add_generation_prompt)
        return _guarded(lambda: self._fast.encode(text, add_special_tokens=False).ids)

    def token_of(self, token_id: int) -> str:
        return self._fast.id_to_token(token_id) or ""

    def decode(self, ids: Sequence[int]) -> str:
        return self._fast.decode(list(ids), skip_special_tokens=False)


class MlxLmTokenizer:
    """mlx-lm's own tokenizer, for folders the fast one cannot hold; imports transformers.

    Raises:
        ConfigError: key ``model.path``; mlx-lm cannot load it, or no EOS token.
    """

    def __init__(self, path: Path) -> None:
        try:
            from mlx_lm.utils import load_tokenizer as load

            self._wrapped: Any = load(path)
        except Exception as error:  # transformers raises anything on a damaged folder
            raise damaged(path, f"holds no tokenizer that can be read: {error}") from error
        self.eos_id = _eos_id(path, self._wrapped.eos_token_id)
        self.vocab_size = len(self._wrapped)
        self.has_chat_template: bool = self._wrapped.has_chat_template
        # Templates are rendered here, for the fixed day; a renderer in Python is left to mlx-lm.
        python = self._wrapped._chat_template is not None  # noqa: SLF001
        texts = {} if python else by_name(self._wrapped.chat_template)
        variables = {
            **self._wrapped.special_tokens_map,
            "enable_thinking": self._wrapped.has_thinking,
        }
        self._templates = _ChatTemplates(path, texts, variables)

    def encode(self, text: str) -> list[int]:
        return _guarded(lambda: self._wrapped.encode(text))

    def encode_chat(
        self, messages: Messages, tools: Tools = None, add_generation_prompt: bool = False
    ) -> list[int] | None:
        if not self.has_chat_template:
            return None
        if not self._templates:
            return self._encode_by_mlx_lm(messages, tools, add_generation_prompt)
        text = self._templates.render(messages, tools, add_generation_prompt)
        return _guarded(lambda: self._wrapped.encode(text, add_special_tokens=False))

    def _encode_by_mlx_lm(
        self, messages: Messages, tools: Tools, add_generation_prompt: bool
    ) -> list[int]:
        return _guarded(
            lambda: self._wrapped.apply_chat_template(
                list(messages), tools=tools, add_generation_prompt=add_generation_prompt
            ),
            "the chat template refuses it",
        )

    def token_of(self, token_id: int) -> str:
        return str(self._wrapped.convert_ids_to_tokens(token_id))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._wrapped.decode(list(ids)))


class _ChatTemplates:
    """The chat templates of a folder by name, compiled when they are first needed."""

    def __init__(self, path: Path, texts: Mapping[str, str], variables: dict[str, Any]) -> None:
        self._path, self._texts, self._variables = path, texts, variables
        self._compiled: dict[str, ChatTemplate] = {}

    def __bool__(self) -> bool:
        return bool(self._texts)

    def render(self, messages: Messages, tools: Tools, add_generation_prompt: bool) -> str:
        """Render with ``tool_use`` where tools are given and it exists, else with ``default``."""
        wanted = ("default",) if tools is None else ("tool_use", "default")
        name = next((name for name in wanted if name in self._texts), None)
        if name is None:
            raise damaged(
                self._path, f"has chat templates {sorted(self._texts)}, none is 'default'"
            )
        return self._template(name).render(
            messages, tools, add_generation_prompt=add_generation_prompt, **self._variables
        )

    def _template(self, name: str) -> ChatTemplate:
        if name not in self._compiled:
            from lab.data.template import ChatTemplate

            try:
                self._compiled[name] = ChatTemplate(self._texts[name])
            except ValueError as error:
                what = f"the chat template cannot be read: {error}"
                raise damaged(self._path, what) from error
        return self._compiled[name]


def load_tokenizer(path: Path | None) -> Tokenizer:
    """Load the tokenizer of a model folder; ``None`` (no folder) gives bytes.

    Raises:
        ConfigError: key ``model.path``; no folder, or no usable tokenizer in it.
    """
    if path is None:
        return ByteTokenizer()
    if not os.path.isdir(path):  # noqa: PTH112  pathlib raises where a name is too long
        raise ConfigError("model.path", str(path), "must be a model folder that exists")
    if (path / "tokenizer.json").exists():
        fast, settings = _read_fast(path), read_settings(path)
        if unlike_transformers(fast, path, settings) is None:
            return FolderTokenizer(path, fast, settings)
    elif not any(path.glob("tokenizer*")) and not any(path.glob("vocab*")):
        raise damaged(path, "has no tokenizer.json")
    return MlxLmTokenizer(path)


def _read_fast(path: Path) -> Fast:
    from tokenizers import Tokenizer as Fast

    try:
        return Fast.from_file(str(path / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        raise damaged(path, f"tokenizer.json cannot be read: {error}") from error


def _eos_id(path: Path, found: int | None) -> int:
    """The id of the EOS token; from the model's own config where the tokenizer names none."""
    if found is not None:
        return found
    given: Any = read_json(path, "config.json").get("eos_token_id")
    given = given[0] if isinstance(given, list) and given else given
    if not isinstance(given, int):
        raise damaged(path, "names no end-of-text token (eos_token) that it has")
    return given


def _guarded(call: Callable[[], list[int]], what: str = "the tokenizer fails on it") -> list[int]:
    """Turn whatever a tokenizer or template raises into a :class:`SampleError`."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in the tokenizers library is no Exception
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise SampleError(f"{what}: {said}") from error
