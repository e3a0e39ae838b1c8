"""The parts of a training state, each with ``state_dict`` and ``load_state_dict``.

Saving and restoring walk the parts and know nothing of what is in them, so a new part is a class
of these two methods and one line in :func:`training_state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from lab.train.checkpoint import Arrays, CheckpointError, State, file_of
from lab.train.progress import Progress
from lab.train.safetensors import in_words

JSON_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "an object",
    type(None): "null",
}


class Stateful(Protocol):
    """A part of a training state."""

    def state_dict(self) -> Any:
        """The current state, arrays by name or a JSON value; later steps do not change it."""

    def load_state_dict(self, state: Any) -> None:
        """Replace the state by one that has the keys, shapes and types of :meth:`state_dict`.

        Raises:
            ValueError: a value is out of its range; nothing of this part was changed.
        """


class ModelState:
    """The trained parameters; the frozen base never changes and is left out."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> Arrays:
        return trained_weights(self._model)

    def load_state_dict(self, state: Arrays) -> None:
        self._model.load_weights(list(state.items()), strict=False)


class OptimizerState:
    """The optimizer's moments, its count of updates and its learning rate."""

    def __init__(self, optimizer: optim.Optimizer, model: nn.Module) -> None:
        self._optimizer, self._model = optimizer, model

    def state_dict(self) -> Arrays:
        return dict(tree_flatten(self._optimizer.state))

    def load_state_dict(self, state: Arrays) -> None:
        self._optimizer.state = tree_unflatten(list(state.items()))
        # In this order: assigning the state marks the optimizer as not initialised; init marks it
        # as initialised and keeps what is there.
        self._optimizer.init(self._model.trainable_parameters())


class RandomState:
    """The key of MLX's global random generator, as its two 32-bit words."""

    def state_dict(self) -> list[int]:
        return mx.random.state[0].tolist()  # type: ignore[index]

    def load_state_dict(self, state: list[int]) -> None:
        if not all(0 <= word < 2**32 for word in state):
            raise ValueError(f"expected two words of 32 bits, found {state}")
        high, low = state
        mx.random.seed((high << 32) | low)


def training_state(
    model: nn.Module, optimizer: optim.Optimizer, progress: Progress
) -> dict[str, Stateful]:
    """All that a step changes, under the names that a checkpoint gives it.

    Arguments:
        optimizer: initialised with the trainable parameters of ``model``.
    """
    # First those that may refuse a value: no array is replaced before they have taken theirs.
    return {
        "rng": RandomState(),
        "progress": progress,
        "model": ModelState(model),
        "optimizer": OptimizerState(optimizer, model),
    }


def state_dicts(parts: Mapping[str, Stateful]) -> dict[str, State]:
    """The state of each part, as of now."""
    return {name: part.state_dict() for name, part in parts.items()}


def load_state_dicts(parts: Mapping[str, Stateful], states: Mapping[str, State]) -> None:
    """Restore every part, once all of them are known to fit.

    Raises:
        CheckpointError: names the file, the first key that does not fit, what was expected and
            what was found.
    """
    check_states(states, state_dicts(parts))
    for name, part in parts.items():
        try:
            part.load_state_dict(states[name])
        except ValueError as error:
            raise CheckpointError(f"{file_of(name, states[name])}: {name}: {error}") from error


def check_states(found: Mapping[str, State], expected: Mapping[str, State]) -> None:
    """Compare the keys of states, the shapes and dtypes of their arrays, their types in JSON.

    Where null is expected, anything or nothing may be found: only the part knows what else it
    takes, and an older checkpoint does not have what is new.

    Raises:
        CheckpointError: names the file, the first key that does not fit, what was expected and
            what was found.
    """
    _check_keys(found, expected, prefix="")
    for name, state in found.items():
        try:
            _check_value(state, expected[name], name)
        except CheckpointError as error:
            raise CheckpointError(f"{file_of(name, expected[name])}: {error}") from None


def _check_value(found: Any, expected: Any, key: str) -> None:
    if isinstance(found, dict) and isinstance(expected, dict):
        _check_keys(found, expected, prefix=f"{key}.")
        for name in (name for name in expected if name in found):
            _check_value(found[name], expected[name], f"{key}.{name}")
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for index, items in enumerate(zip(found, expected, strict=True)):
            _check_value(*items, f"{key}[{index}]")
    elif expected is not None and _kind(found) != _kind(expected):
        raise CheckpointError(f"{key}: expected {_kind(expected)}, found {_kind(found)}")


def _check_keys(found: Mapping[str, Any], expected: Mapping[str, Any], prefix: str) -> None:
    optional = {name for name, value in expected.items() if value is None}
    for name in sorted((found.keys() ^ expected.keys()) - optional):
        side = "expected, not found" if name in expected else "found, not expected"
        raise CheckpointError(f"{prefix}{name}: {side}")


def _kind(value: Any) -> str:
    if isinstance(value, mx.array):
        return in_words(value)
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return JSON_KINDS.get(type(value), type(value).__name__)


def trained_weights(model: nn.Module) -> Arrays:
    """The trained parameters by name."""
    return dict(tree_flatten(model.trainable_parameters()))


def trained_dtype(model: nn.Module) -> mx.Dtype:
    """The type of the trained parameters; the narrowest where a model keeps some in float32."""
    return min((a.dtype for a in trained_weights(model).values()), key=lambda dtype: dtype.size)


def tree_bytes(tree: Any) -> int:
    """Bytes of every array of a tree."""
    leaves: Arrays = dict(tree_flatten(tree))
    return sum(array.nbytes for array in leaves.values())


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model; a quantised weight counts as those that it stands for."""
    parameters: Arrays = dict(tree_flatten(model.parameters()))
    count = sum(array.size for array in parameters.values())
    for layer in model.modules():
        if "scales" in layer and hasattr(layer, "bits"):
            count += layer["weight"].size * 32 // layer.bits - layer["weight"].size
            count -= sum(layer[name].size for name in ("scales", "biases") if name in layer)
    return count
