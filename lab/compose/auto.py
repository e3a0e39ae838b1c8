"""Values for ``auto`` on a machine, and for what the hardware profile's table leaves open."""

from __future__ import annotations

from typing import Any

from lab.compose import model_size
from lab.compose.profiles import profiles
from lab.config.schema import AUTO, ConfigError
from lab.config.units import GB
from lab.machine.hardware import USABLE_SHARE
from lab.machine.machine import Machine

THRESHOLD_SHARE = 0.85  # of the budget
CACHE_SHARE = 0.1  # of the budget
SMALL_SHARE = 0.5  # of the budget; the rest is for the logits, the optimizer, what is not counted

# On the CPU more took 0.6 GB of the process (SmolLM2, LoRA) and won no time.
CPU_CACHE_GB = 0.1


def fill_auto(values: dict[str, Any], machine: Machine) -> list[str]:
    """Replace every ``auto``, and every null of the profile's table, in place.

    Returns:
        Warnings, one line each.

    Raises:
        ConfigError: the model does not fit.
    """
    warnings = _decide_memory(values, machine)
    cpu = machine.backend == "cpu"
    compiled = not cpu or values["trainer"] == "mlx_lm"  # its train() always compiles
    _fill(values["train"], compile=compiled, dtype="float32" if cpu else "bfloat16")
    _fill(values["data"], pad_multiple={"cpu": 32, "metal": 64, "cuda": 128}[machine.backend])
    _fill(values["worker"], threads=machine.cores)
    _fill(values["explain"], enabled=values["trainer"] == "lab")
    _decide_size(values, machine)
    return warnings


def _fill(group: dict[str, Any], **values: object) -> None:
    for key, value in values.items():
        if group[key] == AUTO:
            group[key] = value


def _decide_memory(values: dict[str, Any], machine: Machine) -> list[str]:
    warnings = []
    hardware, memory, reload = values["hardware"], values["memory"], values["reload"]
    own = machine.budget_gb
    if hardware["memory_gb"] * USABLE_SHARE > machine.memory_gb:
        warnings.append(
            f"hardware={hardware['name']} is for {hardware['memory_gb']:g} GB, this machine has "
            f"{machine.memory_gb:.1f} GB: training within its own budget of {own:.1f} GB"
        )
    _fill(memory, budget_gb=min(hardware["budget_gb"], own))
    if memory["budget_gb"] > own:
        warnings.append(
            f"memory.budget_gb={memory['budget_gb']:g} is more than this machine's {own:.1f} GB, "
            "which is used"
        )
        memory["budget_gb"] = own
    budget = memory["budget_gb"]
    _fill(values["objective"], memory_limit_gb=budget)
    cache_limit = budget * CACHE_SHARE
    if machine.backend == "cpu":
        cache_limit = min(cache_limit, CPU_CACHE_GB)
    _fill(memory, cache_limit_gb=round(cache_limit, 3), limit_gb=budget)
    _fill(
        reload,
        memory_threshold_gb=round(THRESHOLD_SHARE * budget, 2),
        metric="mlx" if machine.backend == "cuda" else "process",
    )
    acts = reload["policy"] in ("threshold", "interval_or_threshold")
    if acts and reload["memory_threshold_gb"] > budget:
        warnings.append(
            f"reload.memory_threshold_gb={reload['memory_threshold_gb']:g} cannot fire: it is "
            f"above memory.budget_gb={budget:g}"
        )
    return warnings


def _decide_size(values: dict[str, Any], machine: Machine) -> None:
    """Fill in the adapter's and the batch's size where profile and user left them open."""
    adapter, train, hardware = values["adapter"], values["train"], values["hardware"]
    tier = hardware["tiers"].get(values["model"]["tier"], {})
    if adapter["kind"] != "full":
        if adapter["rank"] is None:
            raise _does_not_fit(values, machine)
        if adapter["alpha"] is None:
            adapter["alpha"] = 2.0 * adapter["rank"]
        if tier.get("rank") is None:  # not in the profile, but the user set a rank: start small
            adapter["num_layers"] = adapter["num_layers"] or 8
            _fill(train, batch_size=1)
    _check_weights(values, machine)
    _fill(train, batch_size=hardware["batch_size"])
    # A profile that says nothing of the tier, or of an older lab: less memory is the safer choice.
    recomputes = tier.get("grad_checkpoint") is not False and not _is_small(values)
    _fill(train, grad_checkpoint=recomputes)


def _is_small(values: dict[str, Any]) -> bool:
    """Whether weights and activations, all of them kept, are small against the budget."""
    model, train = values["model"], values["train"]
    tokens = train["batch_size"] * train["max_seq_length"]
    kept = model_size.activation_bytes(model, tokens, train["dtype"])
    if kept is None:
        return False
    weights = model_size.weights_bytes(model, values["adapter"]["kind"], train["dtype"])
    return weights + kept <= SMALL_SHARE * values["memory"]["budget_gb"] * GB


def _does_not_fit(values: dict[str, Any], machine: Machine) -> ConfigError:
    model, hardware = values["model"], values["hardware"]["name"]
    holding = {
        name: profile["memory_gb"]
        for name, profile in profiles().items()
        if profile["tiers"].get(model["tier"])
        and (machine.backend == "cuda" or not name.startswith("cuda"))
    }
    smallest = min(holding, key=holding.__getitem__)
    return ConfigError(
        "model",
        model["name"],
        f"does not fit hardware={hardware}; the smallest profile that holds a model of tier "
        f"{model['tier']} is {smallest}, or set adapter.rank yourself",
    )


def _check_weights(values: dict[str, Any], machine: Machine) -> None:
    model, kind, dtype = values["model"], values["adapter"]["kind"], values["train"]["dtype"]
    budget = values["memory"]["budget_gb"]
    size = model_size.weights_bytes(model, kind, dtype) / GB
    if size <= budget:
        return
    quantized = model_size.weights_bytes(model, "qlora", dtype) / GB
    remedies = ["choose adapter=qlora"] if quantized <= budget else ["choose a smaller model"]
    if size <= machine.budget_gb:
        remedies.append(f"raise memory.budget_gb (this machine has {machine.budget_gb:.1f})")
    raise ConfigError(
        "adapter",
        kind,
        f"cannot train model={model['name']}: its weights alone take about {size:.1f} GB of a "
        f"budget of {budget:.1f} GB; {', or '.join(remedies)}",
    )
