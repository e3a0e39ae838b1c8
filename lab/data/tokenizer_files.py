"""The files of a tokenizer beside ``tokenizer.json``, and whether transformers changes it by them.

transformers (5.x) does not always load ``tokenizer.json`` as it is: it adds tokens that the files
beside it declare, and for some tokenizer classes builds normalizer, pre-tokenizer and model anew
from the vocabulary alone. :func:`unlike_transformers` finds such folders without its import.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.schema import ConfigError
from lab.records.digest import sha256_of_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Fast

Settings = dict[str, Any]

# Classes for which transformers loads tokenizer.json as it is ...
_GENERIC = {"PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"}
# ... but not for these model types, whose own class it takes whatever the folder names.
_OWN_CLASS = {"qwen2": "Qwen2Tokenizer"} | dict.fromkeys(
    ("hyperclovax_vision_v2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp", "siglip2"),
    "",
)
# Settings that make transformers or mlx-lm take another way than described here.
_UNCOMMON = ("auto_map", "chat_template_type", "fast_tokenizer_files", "fix_mistral_regex")
_QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Classes built anew, with the named tokens that they have without the folder's saying so.
_CLASS_TOKENS = {
    "Qwen2Tokenizer": ("unk_token", "eos_token", "pad_token"),
    "GPT2Tokenizer": ("unk_token", "bos_token", "eos_token"),
}


def damaged(path: Path, what: str) -> ConfigError:
    """The error for a model folder that cannot be used."""
    text = " ".join(what.split())[:300]
    return ConfigError("model.path", str(path), f"{text}; must be a whole model folder")


# What decides the tokens of a text or a conversation, in a model folder.
_TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "config.json", "vocab*"),
    *("merges.txt", "*.model", "*.tiktoken", "chat_template*", "additional_chat_templates/*"),
    *("tekken.json", "*.spm"),
)


def tokenizer_fingerprint(
    path: Path | None, digest_of: Callable[[Path], str] = sha256_of_file
) -> str:
    """Hash of every file that a folder's tokenizer or chat template reads, SHA-256 hex.

    Arguments:
        path: the model's folder; None for bytes.
        digest_of: SHA-256 of one file's content, in hex.
    """
    if path is None:
        return hashlib.sha256(b"bytes").hexdigest()
    digest = hashlib.sha256()
    found = {file for pattern in _TOKENIZER_FILES for file in path.glob(pattern) if file.is_file()}
    for file in sorted(found):
        digest.update(f"{file.relative_to(path)} {digest_of(file)}\n".encode())
    return digest.hexdigest()


def tokenizers_version() -> str | None:
    """The version of the library that tokenises; None while it is not in use, as for bytes."""
    library = sys.modules.get("tokenizers")
    return library and library.__version__


def read_json(path: Path, name: str) -> Settings:
    """Read a JSON object of the folder; empty where there is no such file.

    Raises:
        ConfigError: key ``model.path``; the file cannot be read.
    """
    try:
        value = json.loads((path / name).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, f"{name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise damaged(path, f"{name} is not a JSON object")
    return value


def read_settings(path: Path) -> Settings:
    """``tokenizer_config.json`` merged with ``special_tokens_map.json`` as transformers does.

    The map takes precedence, but does not count where the config lists its added tokens.
    """
    settings = read_json(path, "tokenizer_config.json")
    legacy = read_json(path, "special_tokens_map.json")
    return settings if "added_tokens_decoder" in settings else settings | legacy


def named_tokens(settings: Settings) -> dict[str, str]:
    """The special tokens that have a name (``eos_token``, ``image_token``), by that name."""
    extra = settings.get("extra_special_tokens")
    named = {key: value for key, value in settings.items() if key.endswith("_token")}
    named |= extra if isinstance(extra, dict) else {}
    found = {key: _content(value) for key, value in named.items()}
    return {key: value for key, value in found.items() if value is not None}


def template_texts(path: Path, settings: Settings) -> dict[str, str]:
    """Chat templates by name; files take precedence over ``tokenizer_config.json``.

    Raises:
        ConfigError: key ``model.path``; a template that cannot be read.
    """
    files = {"default": path / "chat_template.jinja"}
    files = {name: file for name, file in files.items() if file.exists()}
    extra = sorted((path / "additional_chat_templates").glob("*.jinja"))
    files |= {file.name.removesuffix(".jinja"): file for file in extra}
    try:
        read = {name: file.read_text("utf-8") for name, file in files.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, f"a chat template cannot be read: {error}") from error
    given = settings.get("chat_template")
    try:
        return read or by_name(given)
    except (KeyError, TypeError) as error:
        raise damaged(path, "chat_template must be a text or a list of named ones") from error


def by_name(templates: Any) -> dict[str, str]:
    """Chat templates by name, from one text, a list of ``{"name", "template"}`` or a dict."""
    if templates is None or isinstance(templates, dict):
        return templates or {}
    if isinstance(templates, str):
        return {"default": templates}
    return {entry["name"]: entry["template"] for entry in templates}


def unlike_transformers(fast: Fast, path: Path, settings: Settings) -> str | None:
    """Why transformers may encode differently than ``tokenizer.json`` alone; ``None``: it does not.

    Args:
        fast: ``tokenizer.json`` as it was read, with its padding.
        settings: from :func:`read_settings`.
    """
    model = read_json(path, "config.json")
    name = _class(settings, model)
    uncommon = next((key for key in _UNCOMMON if settings.get(key) is not None), None)
    if uncommon or settings.get("split_special_tokens"):
        return f"it sets {uncommon or 'split_special_tokens'}"
    if model.get("model_type") == "muse_spark" or (path / "tekken.json").exists():
        return "it has a renderer or a tokenizer of its own"
    if fast.padding is not None and settings.get("pad_token") is None:
        return "it names its padding token in tokenizer.json alone"
    if name not in _GENERIC and not (name == "LlamaTokenizer" and _byte_level(fast)):
        given = all(key in settings for key in _CLASS_TOKENS.get(name, ()))
        if not (given and _same_shape(fast, name, settings) and _same_added(fast, path)):
            return f"{name or 'its class'} is built from the vocabulary"
    token = next(_undeclared(fast, path, settings), None)
    return None if token is None else f"{token!r} is declared beside tokenizer.json"


def _class(settings: Settings, model: Settings) -> str:
    """The tokenizer's class in transformers; empty where that depends on the model type."""
    name = str(settings.get("tokenizer_class") or model.get("tokenizer_class") or "")
    model_type = str(model.get("model_type") or "llama")
    if model_type in _OWN_CLASS:
        return _OWN_CLASS[model_type]
    if not name and model_type == "llama":  # a type without a class of its own
        return "TokenizersBackend"
    return name if name in _GENERIC else name.removesuffix("Fast")


def _content(token: Any) -> str | None:
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


def _undeclared(fast: Fast, path: Path, settings: Settings) -> Iterator[str]:
    """Tokens of the files beside ``tokenizer.json`` that it does not hold in the same way."""
    from tokenizers import AddedToken

    held = fast.get_added_tokens_decoder()
    contents, exact = {token.content for token in held.values()}, {repr(t) for t in held.values()}
    for token in (_read_decoder(path) or {}).values():
        if not isinstance(token, dict) or repr(AddedToken(**_plain(token))) not in exact:
            yield str(_content(token))
    for token, number in read_json(path, "added_tokens.json").items():
        if token not in contents or fast.token_to_id(token) != number:
            yield token
    for declared in (settings, read_json(path, "special_tokens_map.json")):
        for key in ("additional_special_tokens", "extra_special_tokens"):
            listed = declared.get(key)
            for token in listed if isinstance(listed, list) else ():
                if _content(token) not in contents:
                    yield str(_content(token))
    yield from (token for token in named_tokens(settings).values() if token not in contents)


def _read_decoder(path: Path) -> Settings | None:
    declared = read_json(path, "tokenizer_config.json").get("added_tokens_decoder")
    if declared is not None and not isinstance(declared, dict):
        raise damaged(path, "added_tokens_decoder is not a JSON object")
    return declared


def _plain(token: Mapping[str, Any]) -> dict[str, Any]:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"content": str(token.get("content"))} | {k: bool(token[k]) for k in flags if k in token}


def _byte_level(fast: Fast) -> bool:
    return any(
        part is not None and b'"ByteLevel"' in part.__getstate__()
        for part in (fast.pre_tokenizer, fast.decoder)
    )


def _same_added(fast: Fast, path: Path) -> bool:
    """Whether a class that builds the tokenizer anew adds the tokens of ``tokenizer.json``.

    It adds those of ``tokenizer_config.json`` alone where they are listed, and the named ones once
    more with the flags of a plain special token.
    """
    from tokenizers import AddedToken

    held = fast.get_added_tokens_decoder()
    declared = _read_decoder(path)
    if declared is not None:
        tokens = {i: repr(AddedToken(**_plain(token))) for i, token in declared.items()}
        if tokens != {str(i): repr(token) for i, token in held.items()}:
            return False
    special = (token for token in held.values() if token.special)
    return not any(t.lstrip or t.rstrip or t.single_word or t.normalized for t in special)


def _same_shape(fast: Fast, name: str, settings: Settings) -> bool:
    """Whether ``tokenizer.json`` holds the parts that transformers would build for a class."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    space = bool(settings.get("add_prefix_space"))
    if name == "Qwen2Tokenizer":
        split = pre_tokenizers.Split(Regex(_QWEN2_REGEX), behavior="isolated", invert=False)
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)
        parts = normalizers.NFC(), pre_tokenizers.Sequence([split, bytes_])
    elif name == "GPT2Tokenizer":
        parts = None, pre_tokenizers.ByteLevel(add_prefix_space=space)
    else:
        return False
    states = [part and part.__getstate__() for part in parts]
    model: Any = fast.model
    flags = ("byte_fallback", "fuse_unk", "ignore_merges", "continuing_subword_prefix",
             "end_of_word_suffix", "dropout")  # fmt: skip
    return (
        states == [part and part.__getstate__() for part in (fast.normalizer, fast.pre_tokenizer)]
        and type(model).__name__ == "BPE"
        and not any(getattr(model, flag, None) for flag in flags)
    )
