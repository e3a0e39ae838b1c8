"""Override the call of one module of a model, and of no other of its class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.nn as nn


def override_call(module: nn.Module, override: Callable) -> None:
    """Override ``__call__`` of this instance.

    Python looks ``__call__`` up on the class, so the module gets a subclass of its own; its
    parameters, its class name and all other modules of its class stay as they are.

    Arguments:
        override: gets the original call, the module, and the call's arguments.
    """
    cls = type(module)

    def call(self: nn.Module, *args: object, **kwargs: object) -> object:
        return override(cls.__call__, self, *args, **kwargs)

    module.__class__ = type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})


@contextmanager
def calls_restored(model: nn.Module) -> Iterator[None]:
    """Undo at the end whatever was overridden within, of every module of a model."""
    classes = [(module, type(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, cls in classes:
            module.__class__ = cls
