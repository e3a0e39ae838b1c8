"""The config as JSON Schema (draft 2020-12), for editors: every key with its type, range and unit.

Rules between keys (:data:`lab.config.rules.RULES`) are not in it.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from lab.config.keys import READABLE_VERSIONS, Config
from lab.config.schema import AUTO

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}
BOUNDS = {"at_least": "minimum", "above": "exclusiveMinimum", "at_most": "maximum"}
INTERPOLATION = {"type": "string", "pattern": r"^\$\{"}


def saved_schema() -> dict[str, Any]:
    """Of a run's ``config.yaml``: every key is there, and decided."""
    schema = _object(Config, partial=False)
    schema["properties"]["version"] = {"enum": list(READABLE_VERSIONS)}
    return {"$schema": DIALECT, "title": "config.yaml of a run", **schema}


def composed_schema() -> dict[str, Any]:
    """Of a file that Hydra composes, ``conf/config.yaml`` or one of ``conf/experiment``.

    Any key may be left out, ``auto`` or an interpolation; beside them there are Hydra's own.
    """
    schema = _object(Config, partial=True)
    del schema["properties"]["version"]
    schema["properties"] |= {"defaults": {"type": "array"}, "hydra": {"type": "object"}}
    return {"$schema": DIALECT, "title": "a config of conf/", **schema}


def _object(cls: type[Any], *, partial: bool) -> dict[str, Any]:
    hints, known = get_type_hints(cls), fields(cls)
    properties = {f.name: _value(hints[f.name], f.metadata, partial=partial) for f in known}
    required = [f.name for f in known if f.default is MISSING and not partial]
    closed = {"type": "object", "properties": properties, "additionalProperties": False}
    return closed | ({"required": required} if required else {})


def _value(hint: Any, metadata: Any, *, partial: bool) -> dict[str, Any]:
    """The schema of one field; where it is partial, of its undecided values too."""
    others: list[dict[str, Any]] = [{"const": word} for word in metadata.get("words", ())]
    others += [{"type": "null"}] if NoneType in get_args(hint) else []
    if partial:
        others += [{"const": AUTO}, {"type": "null"}] if metadata.get("auto") else []
        others += [INTERPOLATION]
    schema = _decided(hint, metadata, partial=partial)
    if unit := metadata.get("unit"):
        schema = {"description": f"in {unit}", **schema}
    return {"anyOf": [schema, *others]} if others else schema


def _decided(hint: Any, metadata: Any, *, partial: bool) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        inner = next(a for a in arguments if a is not NoneType)
        return _decided(inner, metadata, partial=partial)
    if is_dataclass(hint):
        return _object(hint, partial=partial)  # type: ignore[arg-type]
    if origin is dict:
        return {
            "type": "object",
            "additionalProperties": _value(arguments[1], {}, partial=partial),
        }
    if origin is tuple:
        each = {"choices": metadata.get("choices")}
        return {"type": "array", "items": _value(arguments[0], each, partial=partial)}
    if metadata.get("choices"):
        return {"enum": list(metadata["choices"])}
    bounds = {BOUNDS[k]: metadata[k] for k in BOUNDS if metadata.get(k) is not None}
    return {"type": TYPES[hint], **bounds}
