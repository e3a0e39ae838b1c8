"""Walls of Metal that a worker can die at, recognised in its last words, and what helps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Wall:
    """A limit of the system that a new worker would meet again.

    Attributes:
        name: in the user's words.
        signs: texts of MLX and Metal, any of which tells it.
        remedy: what the user can do.
        environment: variables for the next worker that may take it past the wall.
        passes: a fresh process is a remedy, where the one before took steps until it got there.
    """

    name: str
    signs: tuple[str, ...]
    remedy: str
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    passes: bool = False


# The variables are macOS's and MLX's own: neither changes a result, both let the display wait less.
WALLS = (
    Wall(
        name="macOS ended a computation that held the display up",
        signs=("Impacting Interactivity", "ErrorImpactingInteractivity"),
        remedy="let the display sleep, or lower train.batch_size or train.max_seq_length",
        environment={"AGX_RELAX_CDM_CTXSTORE_TIMEOUT": "1", "MLX_MAX_OPS_PER_BUFFER": "10"},
    ),
    Wall(
        name="an array is larger than Metal's largest buffer",
        signs=("greater than the maximum allowed buffer size",),
        remedy="lower train.batch_size or train.max_seq_length",
    ),
    Wall(
        name="Metal has no more buffers",
        signs=("[metal::malloc] Resource limit",),
        remedy="lower memory.cache_limit_gb or memory.cache_clear_interval, lower "
        "data.max_shapes, or reload=interval with reload.method=process",
        passes=True,
    ),
    Wall(
        name="Metal is out of memory",
        signs=("Insufficient Memory (", "CallbackErrorOutOfMemory"),
        remedy="lower train.batch_size, train.max_seq_length or memory.wired_fraction, set "
        "train.grad_checkpoint=true, or choose adapter=qlora",
        passes=True,
    ),
)


def recognise(text: str) -> Wall | None:
    """The wall that an error or the last lines of a worker's stderr tell of; None for any other."""
    return next((wall for wall in WALLS if any(sign in text for sign in wall.signs)), None)


class WallPolicy:
    """Whether a worker follows one that died at a wall, and with which variables.

    Arguments:
        given: the user's own variables, which stay as they are.

    Attributes:
        environment: what the next worker gets on top of them.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self.environment: dict[str, str] = {}
        self._farthest = -1

    def finds_a_way(self, wall: Wall, *, start_step: int, last_step: int) -> bool:
        """Whether another worker may get past this wall.

        Arguments:
            start_step: the step that the dead worker started from.
            last_step: the newest step that has a row.
        """
        tried = self.environment.keys() | self._given.keys()
        new = {key: value for key, value in wall.environment.items() if key not in tried}
        self.environment |= new
        is_farther = last_step > max(start_step, self._farthest)
        self._farthest = max(self._farthest, last_step)
        return bool(new) or (wall.passes and is_farther)
