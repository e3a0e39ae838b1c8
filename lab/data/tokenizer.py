"""Tokenizers without transformers, whose import costs 1 s and 100 MB of the training process."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from lab.config.schema import ConfigError
from lab.data.errors import SampleError

Messages = Sequence[dict[str, Any]]
Tools = Sequence[dict[str, Any]] | None

_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# mlx-lm sets enable_thinking for a vocabulary that has one of these pairs.
_THINKING = (
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|channel>", "<channel|>"),
)


class Tokenizer(Protocol):
    """The interface that data preparation needs; every id is below ``vocab_size``."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens the tokenizer adds (such as BOS)."""
        ...

    def encode_chat(
        self, messages: Messages, tools: Tools = None, add_generation_prompt: bool = False
    ) -> list[int] | None:
        """Token ids of a rendered conversation, or ``None`` without a chat template.

        Raises:
            SampleError: the template refuses the conversation.
        """
        ...

    def token_of(self, token_id: int) -> str:
        """The token's own text, for messages."""
        ...


class ByteTokenizer:
    """UTF-8 bytes are the ids, 256 is EOS; ids up to 288 are unused padding of the vocabulary."""

    vocab_size = 288
    eos_id = 256

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


class FolderTokenizer:
    """The fast tokenizer of a model folder: ``tokenizer.json`` and the files beside it.

    Raises:
        ConfigError: key ``model.path``; a damaged file, or no EOS token.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Fast

        self._path = path
        try:
            self._fast = Fast.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            raise _damaged(path, f"tokenizer.json cannot be read: {error}") from error
        self._fast.no_truncation()
        self._fast.no_padding()
        self._settings = _settings(path)
        # Added tokens may leave a gap above the base vocabulary.
        added = max(self._fast.get_added_tokens_decoder(), default=-1)
        self.vocab_size = max(self._fast.get_vocab_size(with_added_tokens=False), added + 1)
        self.eos_id = self._eos_id()

    def encode(self, text: str) -> list[int]:
        return self._fast.encode(text).ids

    def encode_chat(
        self, messages: Messages, tools: Tools = None, add_generation_prompt: bool = False
    ) -> list[int] | None:
        template = self._templates.get("tool_use" if tools else "default")
        template = template or self._templates.get("default")
        if template is None:
            return None
        text = template.render(
            messages, tools, add_generation_prompt=add_generation_prompt, **self._variables
        )
        return self._fast.encode(text, add_special_tokens=False).ids

    def token_of(self, token_id: int) -> str:
        return self._fast.id_to_token(token_id) or ""

    @cached_property
    def _templates(self) -> dict[str, Any]:
        texts = _template_texts(self._path, self._settings)
        if not texts:
            return {}
        from lab.data.template import ChatTemplate

        try:
            return {name: ChatTemplate(text) for name, text in texts.items()}
        except ValueError as error:
            raise _damaged(self._path, f"the chat template cannot be read: {error}") from error

    @cached_property
    def _variables(self) -> dict[str, Any]:
        named = {f"{name}_token": self._special(name) for name in _SPECIAL}
        has = self._fast.token_to_id
        thinks = any(has(a) is not None and has(b) is not None for a, b in _THINKING)
        return {k: v for k, v in named.items() if v is not None} | {"enable_thinking": thinks}

    def _special(self, name: str) -> str | None:
        value = self._settings.get(f"{name}_token")
        return value.get("content") if isinstance(value, dict) else value

    def _eos_id(self) -> int:
        token = self._special("eos")
        found = self._fast.token_to_id(token) if token else None
        if found is None:  # some folders name it only in the model's own config
            found = _read_json(self._path, "config.json").get("eos_token_id")
            found = found[0] if isinstance(found, list) and found else found
        if not isinstance(found, int):
            raise _damaged(self._path, "names no end-of-text token (eos_token) that it has")
        return found


class MlxLmTokenizer:
    """mlx-lm's own tokenizer, for folders the fast one cannot load; imports transformers."""

    def __init__(self, path: Path) -> None:
        from mlx_lm.tokenizer_utils import load

        try:
            self._wrapped: Any = load(path)
        except Exception as error:  # transformers raises anything on a damaged folder
            raise _damaged(path, f"holds no tokenizer that can be read: {error}") from error
        if self._wrapped.eos_token_id is None:
            raise _damaged(path, "names no end-of-text token (eos_token)")
        self.vocab_size = len(self._wrapped)
        self.eos_id: int = self._wrapped.eos_token_id

    def encode(self, text: str) -> list[int]:
        return self._wrapped.encode(text)

    def encode_chat(
        self, messages: Messages, tools: Tools = None, add_generation_prompt: bool = False
    ) -> list[int] | None:
        if not self._wrapped.has_chat_template:
            return None
        try:
            return self._wrapped.apply_chat_template(
                list(messages), tools=tools, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # a template is a program: it may raise anything
            raise SampleError(f"the chat template refuses it: {error}") from error

    def token_of(self, token_id: int) -> str:
        return str(self._wrapped.convert_ids_to_tokens(token_id))


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
        return FolderTokenizer(path)
    if not any(path.glob("tokenizer*")) and not any(path.glob("vocab*")):
        raise _damaged(path, "has no tokenizer.json")
    return MlxLmTokenizer(path)


# What decides the tokens of a text or a conversation, in a model folder.
_TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "config.json", "vocab*"),
    *("merges.txt", "*.model", "*.tiktoken", "chat_template*", "additional_chat_templates/*"),
)


def tokenizer_fingerprint(path: Path | None) -> str:
    """Hash of every file that a folder's tokenizer or chat template reads, SHA-256 hex."""
    if path is None:
        return hashlib.sha256(b"bytes").hexdigest()
    import tokenizers

    digest = hashlib.sha256(tokenizers.__version__.encode())
    found = {file for pattern in _TOKENIZER_FILES for file in path.glob(pattern) if file.is_file()}
    for file in sorted(found):
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{file.relative_to(path)} {content}\n".encode())
    return digest.hexdigest()


def _damaged(path: Path, what: str) -> ConfigError:
    text = " ".join(what.split())[:300]
    return ConfigError("model.path", str(path), f"{text}; must be a whole model folder")


def _read_json(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of the folder; empty where there is no such file."""
    try:
        value = json.loads((path / name).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"{name} is not a JSON object")
    return value


def _settings(path: Path) -> dict[str, Any]:
    return _read_json(path, "special_tokens_map.json") | _read_json(path, "tokenizer_config.json")


def _template_texts(path: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Chat templates by name; files take precedence over ``tokenizer_config.json``."""
    given = settings.get("chat_template") or {}
    if isinstance(given, str):
        given = {"default": given}
    elif isinstance(given, list):
        given = {entry["name"]: entry["template"] for entry in given}
    files = {p.stem: p for p in sorted((path / "additional_chat_templates").glob("*.jinja"))}
    if (path / "chat_template.jinja").exists():
        files["default"] = path / "chat_template.jinja"
    try:
        read = {name: file.read_text("utf-8") for name, file in files.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, f"a chat template cannot be read: {error}") from error
    return read or given
