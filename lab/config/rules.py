"""Rules between keys: pure functions that refuse a config whose values do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.config.schema import ConfigError

if TYPE_CHECKING:
    from lab.config.keys import Config  # which is checked by these as it is made


def _one_model_source(config: Config) -> None:
    model = config.model
    given = [n for n in ("path", "hub_id", "scratch") if getattr(model, n) is not None]
    if not given:
        raise ConfigError("model.path", None, f"model={model.name} needs it: model.path=FOLDER")
    if len(given) > 1:
        said = " and ".join(f"model.{name}" for name in given)
        remedy = "a folder goes with model=local"
        raise ConfigError("model", model.name, f"has {said}, must have one of them; {remedy}")
    scratch = model.scratch
    if scratch is None:
        return
    if scratch.hidden_size % (2 * scratch.num_heads):
        raise ConfigError(
            "model.scratch.hidden_size",
            scratch.hidden_size,
            f"must be a multiple of twice model.scratch.num_heads ({2 * scratch.num_heads})",
        )


def _data_has_source(config: Config) -> None:
    needed = {"jsonl": "path", "hub": "hub_id"}.get(config.data.name)
    if needed is not None and getattr(config.data, needed) is None:
        key = f"data.{needed}"
        raise ConfigError(key, None, f"data={config.data.name} needs it: {key}={needed.upper()}")


def _adapter_fits(config: Config) -> None:
    adapter = config.adapter
    if adapter.kind == "full":
        return
    for name in ("rank", "alpha", "num_layers"):
        if getattr(adapter, name) is None:
            raise ConfigError(f"adapter.{name}", None, "must be set for an adapter")
    if not adapter.targets:
        raise ConfigError("adapter.targets", "[]", "must name at least one layer, e.g. [q_proj]")


def _dropout_twice(config: Config) -> None:
    # mx.checkpoint recomputes the forward pass with another dropout mask: the gradient would be
    # silently wrong.
    if config.train.grad_checkpoint and config.adapter.dropout > 0:
        raise ConfigError(
            "train.grad_checkpoint",
            True,
            f"gives a wrong gradient with adapter.dropout={config.adapter.dropout:g}; "
            "set one of them to 0 or false",
        )


def _schedule_fits(config: Config) -> None:
    if config.optimizer.warmup_steps > config.train.steps:
        raise ConfigError(
            "optimizer.warmup_steps",
            config.optimizer.warmup_steps,
            f"must be at most train.steps ({config.train.steps})",
        )


def _adaptive_needs_the_labs_trainer(config: Config) -> None:
    if config.reload.policy == "adaptive" and config.trainer == "mlx_lm":
        raise ConfigError(
            "reload.policy",
            "adaptive",
            "cannot act with trainer=mlx_lm, whose train() runs unchanged; reload=none measures it",
        )


def _growth_has_a_loop(config: Config) -> None:
    growing = list(config.fault.growing)
    if growing and config.trainer == "mlx_lm":
        raise ConfigError(
            "trainer",
            "mlx_lm",
            f"is mlx-lm's own loop, in which fault.{growing[0]} cannot act; choose trainer=lab",
        )


def _labs_own_needs_the_labs_trainer(config: Config) -> None:
    asked = {
        "data.overfit_batches": (config.data.overfit_batches, "which draws its own batches"),
        "profiler.steps": (config.profiler.steps, "whose train() runs unchanged"),
    }
    for key, (value, why) in asked.items():
        if value and config.trainer == "mlx_lm":
            allowed = f"cannot act with trainer=mlx_lm, {why}; choose trainer=lab"
            raise ConfigError(key, value, allowed)


def _shapes_fit(config: Config) -> None:
    data, train = config.data, config.train
    asked = {
        "train.packing": (train.packing, True),
        "data.buckets": (data.buckets, list(data.buckets)),
        "train.batch_by": (train.batch_by == "tokens", "tokens"),
    }
    given = {key: value for key, (is_given, value) in asked.items() if is_given}
    for key, value in given.items():
        if not data.max_shapes:
            raise ConfigError(key, value, "needs fixed shapes: set data.max_shapes, e.g. to 8")
        if train.packing and key != "train.packing":
            raise ConfigError(key, value, "does nothing with train.packing=true: leave out one")
    if train.packing and config.trainer == "mlx_lm":
        allowed = "cannot act with trainer=mlx_lm, whose train() runs unchanged; choose trainer=lab"
        raise ConfigError("train.packing", True, allowed)


def _buckets_fit(config: Config) -> None:
    data, buckets = config.data, list(config.data.buckets)
    if not buckets:
        return
    if buckets != sorted(set(buckets)) or buckets[0] < 1:
        allowed = "must be lengths in tokens, ascending, each once"
    elif len(buckets) > data.max_shapes:
        allowed = f"must be at most data.max_shapes={data.max_shapes} lengths"
    elif any(bucket % data.pad_multiple for bucket in buckets):
        allowed = f"must be multiples of data.pad_multiple={data.pad_multiple}"
    else:
        return
    raise ConfigError("data.buckets", buckets, allowed)


RULES = (
    _one_model_source,
    _data_has_source,
    _adapter_fits,
    _dropout_twice,
    _schedule_fits,
    _adaptive_needs_the_labs_trainer,
    _growth_has_a_loop,
    _labs_own_needs_the_labs_trainer,
    _shapes_fit,
    _buckets_fit,
)
