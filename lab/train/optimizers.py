"""Optimizers and learning-rate schedules, all of them MLX's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from lab.config.keys import Optimizer

Rate = Callable[[mx.array], mx.array] | float


# float16 holds nothing between 0 and 6e-8: there MLX's own eps, 1e-8 and 1e-30, are 0, and a
# gradient whose square is 0 too gives 0 / 0.
FLOAT16_ADAM_EPS, FLOAT16_ADAFACTOR_EPS = 1e-4, 1e-7


def build_optimizer(
    config: Optimizer, *, steps: int, dtype: mx.Dtype = mx.float32
) -> optim.Optimizer:
    """The optimizer of a run of ``steps`` updates, its schedule inside.

    Arguments:
        dtype: of the trained parameters, which the optimizer's state has too.
    """
    rate = build_schedule(config, steps=steps)
    betas = [config.beta1, config.beta2]
    adamw: dict[str, Any] = {"betas": betas, "bias_correction": config.bias_correction}
    adafactor: dict[str, Any] = {}
    if dtype == mx.float16:
        adamw["eps"], adafactor["eps"] = FLOAT16_ADAM_EPS, (FLOAT16_ADAFACTOR_EPS, 1e-3)
    match config.name:
        case "adamw":
            return optim.AdamW(rate, weight_decay=config.weight_decay, **adamw)
        case "adam":
            return optim.Adam(rate, **adamw)
        case "muon":
            muon = optim.Muon(rate, momentum=config.momentum, weight_decay=config.weight_decay)
            return optim.MultiOptimizer(
                [muon, optim.AdamW(rate, weight_decay=config.weight_decay, **adamw)],
                [_is_hidden_matrix],
            )
        case "adafactor":
            return optim.Adafactor(
                rate,
                beta_1=config.beta1 or None,  # 0: no first moment, which is what saves memory
                weight_decay=config.weight_decay,
                relative_step=False,
                scale_parameter=False,
                **adafactor,
            )
        case "sgd":
            return optim.SGD(rate, momentum=config.momentum, weight_decay=config.weight_decay)
    raise AssertionError(config.name)


def eps_note(config: Optimizer, dtype: mx.Dtype) -> str | None:
    """A line for the user where :func:`build_optimizer` has to choose another eps than MLX's."""
    eps = {"sgd": None, "adafactor": FLOAT16_ADAFACTOR_EPS}.get(config.name, FLOAT16_ADAM_EPS)
    if dtype != mx.float16 or eps is None:
        return None
    usual = "1e-30" if config.name == "adafactor" else "1e-8"
    return (
        f"optimizer={config.name} computes with eps={eps:g}, as its usual {usual} is 0 in float16"
    )


def learning_rate(optimizer: optim.Optimizer) -> float:
    """The rate that the last update used."""
    return optimizer.learning_rate.item()  # type: ignore[return-value]


def build_schedule(config: Optimizer, *, steps: int) -> Rate:
    """The learning rate as a function of the updates done, or a constant.

    Warm-up rises linearly and reaches the full rate with its last step: its first update already
    moves (mlx-lm's first one has rate 0).
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    rest, final = max(steps - warmup, 1), config.learning_rate * config.final_fraction
    match config.schedule:
        case "linear":
            main: Rate = optim.linear_schedule(peak, final, rest)
        case "cosine":
            main = optim.cosine_decay(peak, rest, final)
        case _:
            main = peak
    if warmup == 0:
        return main
    rising = optim.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    flat = main if callable(main) else lambda _: mx.array(peak)
    return optim.join_schedules([rising, flat], [warmup])


def _is_hidden_matrix(path: str, weight: mx.array) -> bool:
    """Muon is meant for matrices inside the network; embeddings, head and norms get AdamW."""
    return weight.ndim == 2 and not any(part in path for part in ("embed", "lm_head"))
