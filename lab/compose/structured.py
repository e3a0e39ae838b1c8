"""The structured config (schema) that Hydra composes into, made from the frozen config classes."""

from __future__ import annotations

from dataclasses import MISSING as REQUIRED
from dataclasses import Field, field, fields, is_dataclass, make_dataclass
from functools import cache
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from lab.config.keys import Config

schemas = SimpleNamespace()


@cache
def schema(cls: type[Any]) -> type[Any]:
    """A dataclass that OmegaConf can merge into, with the keys of a frozen config class.

    Frozen ones would become read-only nodes. Leaves are untyped: the strict checks of
    :mod:`lab.config.keys` judge them, where OmegaConf would take "7" for 7 and "yes" for true.
    """
    hints = get_type_hints(cls)
    made = make_dataclass(
        cls.__name__,
        [
            (f.name, _node(hints[f.name]), field(default=_default(f)))
            for f in fields(cls)
            if f.name != "version"
        ],
    )
    # Importable by name, so that launchers pickle it by reference: cloudpickle < 3 loses the fields
    # of a dataclass that it pickles by value.
    setattr(schemas, cls.__name__, made)
    made.__module__, made.__qualname__ = __name__, f"schemas.{cls.__name__}"
    return made


def _default(spec: Field[Any]) -> Any:
    """MISSING too for a group that older saved configs lack: ``conf/config.yaml`` always has it."""
    return MISSING if spec.default is REQUIRED or is_dataclass(spec.default) else spec.default


def _node(hint: Any) -> Any:
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        inner = _node(next(a for a in arguments if a is not NoneType))
        return inner if inner is Any else inner | None
    if get_origin(hint) is dict:
        return dict[str, _node(arguments[1])]
    return schema(hint) if is_dataclass(hint) else Any


# Made on import: a launcher's process, which unpickles a config first of all, looks it up by name.
CONFIG_SCHEMA = schema(Config)
