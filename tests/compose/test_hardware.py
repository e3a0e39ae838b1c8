"""Hardware profiles: the figures of every machine and model size."""

from __future__ import annotations

import pytest

from lab.compose.profiles import detected_profile, profile_sizes, profiles
from tests.composing import composed, config, machine, refusal

pytestmark = pytest.mark.usefixtures("hydra_here")


PROFILES = {  # memory, budget, batch, accumulation, sequence, gradient checkpointing
    "base_16gb": (16, 12, 1, 16, 512, True),
    "pro_32gb": (32, 25, 2, 8, 1024, True),
    "max_64gb": (64, 51, 4, 4, 1024, False),
    "ultra_96gb": (96, 76, 4, 4, 1024, True),
    "ultra_192gb": (192, 153, 8, 2, 2048, False),
    "cuda_80gb": (80, 64, 4, 4, 1024, True),
}
MODELS = {
    "smollm2_135m": "compact",
    "hermes_3_8b": "small",
    "qwen3_14b": "medium",
    "qwen3_32b": "large",
    "hermes_3_70b": "xlarge",
}
TIERS = {  # rank, layers, batch
    "base_16gb": {"compact": (32, 8, 2), "small": (32, 8, 1)},
    "pro_32gb": {"compact": (64, 16, 8), "small": (64, 16, 4), "medium": (48, 12, 2)},
    "max_64gb": {
        "compact": (64, 16, 4),
        "small": (64, 16, 2),
        "medium": (64, 16, 2),
        "large": (96, 20, 2),
    },
    "ultra_96gb": {
        "compact": (64, 16, 4),
        "small": (64, 16, 2),
        "medium": (64, 16, 2),
        "large": (96, 20, 2),
        "xlarge": (128, 24, 2),
    },
    "ultra_192gb": {
        "compact": (64, 16, 32),
        "small": (64, 16, 16),
        "medium": (96, 20, 8),
        "large": (128, 24, 8),
        "xlarge": (256, 32, 8),
    },
}
TIERS["cuda_80gb"] = TIERS["ultra_96gb"]
HOLDS = {"medium": "pro_32gb", "large": "max_64gb", "xlarge": "ultra_96gb"}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("profile", PROFILES)
def test_profile_has_the_figures_of_the_table(profile: str, model: str) -> None:
    memory, budget, batch, accumulation, sequence, checkpointing = PROFILES[profile]
    size = TIERS[profile].get(MODELS[model])
    if size is None:
        line = refusal(f"hardware={profile}", f"model={model}")
        assert f"model={model}: does not fit hardware={profile}" in line
        assert HOLDS[MODELS[model]] in line
        return
    found = config(f"hardware={profile}", f"model={model}")
    hardware, train, adapter = found.hardware, found.train, found.adapter
    assert (hardware.memory_gb, hardware.budget_gb, hardware.batch_size) == (memory, budget, batch)
    assert found.memory.budget_gb == budget
    assert train.grad_accumulation_steps == accumulation
    assert (train.max_seq_length, train.grad_checkpoint) == (sequence, checkpointing)
    assert (found.optimizer.learning_rate, train.max_grad_norm) == (2e-4, 1.0)
    assert (adapter.rank, adapter.num_layers, train.batch_size) == size
    assert adapter.alpha == 2 * size[0]
    assert adapter.targets == ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.mark.parametrize(
    ("backend", "memory", "profile"),
    [
        ("cpu", 8, "base_16gb"),
        ("cpu", 15.5, "base_16gb"),
        ("cpu", 23.5, "base_16gb"),
        ("metal", 64, "max_64gb"),
        ("metal", 80, "max_64gb"),
        ("metal", 512, "ultra_192gb"),
        ("cuda", 23.7, "base_16gb"),
        ("cuda", 79.2, "cuda_80gb"),
        ("cuda", 139.8, "cuda_80gb"),
    ],
)
def test_auto_takes_the_largest_profile_that_fits(
    backend: str, memory: float, profile: str
) -> None:
    here = machine(backend, memory)
    assert detected_profile(here) == profile
    found, warnings = composed("model=smollm2_135m", on=here)
    assert (found.hardware.name, found.hardware.memory_gb) == ("auto", here.memory_gb)
    assert found.memory.budget_gb == here.budget_gb
    assert found.adapter.rank == TIERS[profile]["compact"][0]
    assert warnings == []


def test_a_profile_for_a_larger_machine_runs_within_this_ones_budget() -> None:
    found, warnings = composed("hardware=ultra_96gb", on=machine(memory=24))
    assert found.memory.budget_gb == 19.2
    (warning,) = warnings
    assert warning.startswith("hardware=ultra_96gb is for 96 GB, this machine has 24.0 GB")
    assert warning.endswith("its own budget of 19.2 GB")


def test_the_machines_budget_is_never_exceeded() -> None:
    found, warnings = composed(
        "hardware=base_16gb", "memory.budget_gb=100", on=machine(memory=20, budget=16)
    )
    assert found.memory.budget_gb == 16
    assert "memory.budget_gb=100 is more than" in warnings[0]


def test_a_smaller_budget_is_the_users_choice() -> None:
    assert config("memory.budget_gb=2").memory.limit_gb == 2


def test_setting_the_rank_makes_a_model_fit() -> None:
    found = config("hardware=base_16gb", "model=hermes_3_70b", "adapter.rank=4")
    assert (found.adapter.rank, found.adapter.alpha, found.adapter.num_layers) == (4, 8, 8)
    assert found.train.batch_size == 1


def test_alpha_follows_the_users_rank() -> None:
    assert config("model=smollm2_135m", "adapter.rank=8").adapter.scale == 2
    assert config("model=smollm2_135m", "adapter.rank=8", "adapter.alpha=4").adapter.scale == 0.5


def test_full_training_of_a_model_that_is_too_large() -> None:
    line = refusal("hardware=pro_32gb", "model=hermes_3_8b", "adapter=full", on=machine(memory=16))
    assert line.startswith("adapter=full: cannot train model=hermes_3_8b")
    assert "choose adapter=lora or qlora" in line


def test_profiles_are_read_from_their_files() -> None:
    assert profiles().keys() == PROFILES.keys()
    assert {n: p["memory_gb"] for n, p in profiles().items()} == profile_sizes()
