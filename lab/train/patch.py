"""Changing what one module of a model computes, without touching its class."""

from __future__ import annotations

from collections.abc import Callable

import mlx.nn as nn


def replace_call(module: nn.Module, replacement: Callable) -> None:
    """Give one module a call of its own.

    Python looks ``__call__`` up on the class, so the module gets a subclass that only it has; its
    parameters, its name and every other module of its class stay as they are.

    Arguments:
        replacement: gets the original call, the module, and the call's arguments.
    """
    cls = type(module)

    def call(self: nn.Module, *args: object, **kwargs: object) -> object:
        return replacement(cls.__call__, self, *args, **kwargs)

    module.__class__ = type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})
