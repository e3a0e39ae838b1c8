"""The path from a root to an object, in words: attributes, indices, cells, frames."""

from __future__ import annotations

import inspect
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import PurePath
from types import (
    CellType,
    FrameType,
    FunctionType,
    GeneratorType,
    MemberDescriptorType,
    MethodType,
    TracebackType,
)
from typing import Any

KEY_LETTERS = 40  # of a dict's key
PLAIN = (str, int, float, bool, bytes, type(None))  # keys that are shown as they are
MOST_BITS = 128  # of a number that is shown; Python refuses to write very long ones
FEW = 4  # items of a container that is not yet what grows


def type_name(item: object) -> str:
    """The full name of an object's type, of a class the class's own: ``package.module.Class``."""
    kind = item if isinstance(item, type) else type(item)
    builtin = kind.__module__ == "builtins"
    return kind.__qualname__ if builtin else f"{kind.__module__}.{kind.__qualname__}"


def short_path(filename: str) -> str:
    """A file's path below the folder that Python imports it from."""
    folders = [folder.rstrip("/") + "/" for folder in sys.path if folder]
    above = [folder for folder in folders if filename.startswith(folder)]
    return filename.removeprefix(max(above, key=len)) if above else PurePath(filename).name


def path_text(start: str, chain: Sequence[Any], *, kind: str) -> str:
    """The path through ``chain``, each of whose objects refers to the next.

    Arguments:
        start: the name of the first one.
        kind: of the root: the first object of ``module`` and ``class`` is a namespace.

    Returns:
        For example ``package.module.LIST[3]``, or with what cannot be typed in words behind it:
        ``package.module.HOOKS[0], function make.<locals>.hook, cell 'kept'[12]``.
    """
    text, caught = start, ""
    for above, item, below in zip([None, *chain], chain, [*chain[1:], None], strict=False):
        if below is None:
            break
        if isinstance(item, BaseException):
            caught = caught or f"traceback of {type(item).__name__} in "
        is_namespace = item is chain[0] and kind in ("module", "class")
        text += _edge(above, item, below, is_namespace=is_namespace)
    return caught + text


def container_text(start: str, chain: Sequence[Any], *, kind: str) -> str | None:
    """The path to the container that takes things in: the last on the way that has some.

    Arguments:
        chain: as in :func:`path_text`; the object at its end is what was taken in.
    """
    for i in reversed(range(1, len(chain) - 1)):
        item = chain[i]
        is_namespace = item is _instance_dict(chain[i - 1])
        if type(item) in (list, dict, set, deque) and len(item) >= FEW and not is_namespace:
            return path_text(start, chain[: i + 1], kind=kind)
    return None


def _edge(above: Any, item: Any, below: Any, *, is_namespace: bool) -> str:
    """The words for the reference from ``item`` to ``below``."""
    match item:
        case dict():
            return _key(above, item, below, is_namespace=is_namespace)
        case list() | tuple() | deque():
            return _item(above, item, below)
        case FunctionType():
            return f", function {item.__qualname__}"
        case CellType() | MethodType() | TracebackType():
            return ""
        case FrameType():
            return f", frame {_place(item)}, local '{_local(item, below)}'"
        case GeneratorType():
            return f", generator {item.__qualname__}, local '{_local(item.gi_frame, below)}'"
        case BaseException() if below is item.__traceback__:
            return ""
        case type():
            return "" if isinstance(below, dict) else f".{_name_in(vars(item), below)}"
        case _:
            return _attribute(item, below)


def _item(above: Any, item: Any, below: Any) -> str:
    """The index in a sequence; of a closure the cell's name."""
    found = next((i for i, value in enumerate(item) if value is below), None)
    if found is None:
        return _attribute(item, below)
    if isinstance(above, FunctionType) and item is above.__closure__:
        return f", cell '{above.__code__.co_freevars[found]}'"
    return f"[{found}]"


def _key(above: Any, item: dict, below: Any, *, is_namespace: bool) -> str:
    key = _name_in(item, below)
    is_attributes = isinstance(above, type) or _instance_dict(above) is item
    is_module = type(item) is not dict  # an nn.Module is a dict that shows its keys as attributes
    if isinstance(key, str) and key.isidentifier() and (is_namespace or is_attributes or is_module):
        return f".{key}"
    shown = _key_text(key)
    return f"[{shown if len(shown) <= KEY_LETTERS else shown[:KEY_LETTERS] + '...'}]"


def _key_text(key: Any) -> str:
    """A key as it would be typed, or its type: ``repr`` of the user's types is the user's code."""
    if type(key) is tuple:
        parts = ", ".join(map(_key_text, key))
        return f"({parts},)" if len(key) == 1 else f"({parts})"
    if type(key) not in PLAIN or (type(key) is int and key.bit_length() > MOST_BITS):
        return type(key).__name__
    return repr(key)


def _name_in(names: Any, below: Any) -> Any:
    """The key of a value; of a key itself the key."""
    return next((key for key, value in list(names.items()) if value is below or key is below), "?")


def _attribute(item: Any, below: Any) -> str:
    """``.name`` where an attribute of an instance is ``below``; its dict is no part of the path."""
    attributes = _instance_dict(item)
    if below is attributes:
        return ""
    if isinstance(item, partial):
        return f", partial of {getattr(item.func, '__qualname__', type_name(item.func))}"
    for name, value in (*(attributes or {}).items(), *_slots(item)):
        if value is below:
            return f".{name}"
    return f".<{type(item).__name__}>"


def _instance_dict(item: Any) -> dict | None:
    with suppress(AttributeError, TypeError):
        found = object.__getattribute__(item, "__dict__")
        return found if isinstance(found, dict) else None
    return None


def _slots(item: Any) -> Iterator[tuple[str, Any]]:
    for kind in type(item).__mro__:
        for name, member in list(vars(kind).items()):
            if isinstance(member, MemberDescriptorType):
                with suppress(AttributeError):
                    yield name, member.__get__(item)


def _place(frame: FrameType) -> str:
    return f"{PurePath(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"


def _local(frame: FrameType | None, below: Any) -> str:
    """The local variable of a frame that has ended or rests.

    Up to Python 3.12 ``f_locals`` is a copy that the frame keeps, so it is emptied again.
    """
    if frame is None:
        return "?"
    names = frame.f_locals
    try:
        return str(next((name for name, value in names.items() if value is below), "?"))
    finally:
        if isinstance(names, dict) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            names.clear()
