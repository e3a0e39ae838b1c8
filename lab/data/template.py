"""Render chat templates as transformers does, in the same sandbox: they are foreign code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from lab.data.errors import SampleError

# No conversation is so long; a template that loops for ever would fill the memory.
_LONGEST = 2**24  # characters

# Llama 3's template writes today's date into every prompt, so a replay on another day would train
# on other tokens. This is the date that the template itself falls back to.
_TODAY = datetime(2024, 7, 26)  # noqa: DTZ001  a calendar day, no time zone
_REASONING = ("reasoning_content", "thinking", "reasoning")


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's tokens; rendered as its content."""

    tags = {"generation"}  # noqa: RUF012  as the base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Macro) -> str:
        return caller()


class _Namespace(Namespace):
    """A namespace that refuses names with a leading underscore, as the sandbox does elsewhere."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *pairs = args
        attributes = dict(*pairs, **values)
        for name in attributes:
            _refuse_private(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


class _Dict:
    """``dict`` for templates: not the class itself, whose attributes a template could walk."""

    def __call__(self, *pairs: Any, **values: Any) -> dict[Any, Any]:
        return dict(*pairs, **values)

    def fromkeys(self, *arguments: Any) -> dict[Any, Any]:
        return dict.fromkeys(*arguments)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _TODAY.strftime,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


def _prepared(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without null fields, its reasoning under the names that templates read."""
    kept = {key: value for key, value in message.items() if value is not None}
    reasoning = next((kept[key] for key in _REASONING if key in kept), None)
    if reasoning is None:
        return kept
    return {"thinking": reasoning, **kept, "reasoning_content": reasoning}


class ChatTemplate:
    """One compiled chat template.

    Raises:
        ValueError: the text is not a Jinja template.
    """

    def __init__(self, text: str) -> None:
        try:
            self._template = _environment().from_string(text)
        except Exception as error:  # a syntax error, or not a string
            raise ValueError(str(error)) from error

    def render(
        self,
        messages: Iterable[Mapping[str, Any]],
        tools: Iterable[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """Render a conversation.

        Raises:
            SampleError: the template raises an error of any kind.
        """
        prepared = [_prepared(message) for message in messages]
        tools = None if tools is None else list(tools)
        variables = {"messages": prepared, "tools": tools, "documents": None} | variables
        try:
            return _joined(self._template.generate(variables))
        except Exception as error:  # a template is a program: it may raise anything
            raise SampleError(f"the chat template refuses it: {_said(error)}") from error


def _joined(pieces: Iterable[str]) -> str:
    kept, length = [], 0
    for piece in pieces:
        kept.append(piece)
        length += len(piece)
        if length > _LONGEST:
            raise jinja2.TemplateError(f"it writes more than {_LONGEST} characters")
    return "".join(kept)


def _said(error: Exception) -> str:
    """The message of an error on one line, its type where it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
