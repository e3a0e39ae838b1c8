"""Hardware profiles: the figures of every machine and model size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.compose.model_size import parameters_of
from lab.compose.profiles import detected_profile, profile_sizes, profiles
from lab.config.schema import ConfigError
from lab.machine.machine import Machine
from tests.composing import composed, config, machine, refusal

pytestmark = pytest.mark.usefixtures("hydra_here")


PROFILES = {  # memory, budget, batch, accumulation, sequence
    "base_16gb": (16, 12, 1, 16, 512),
    "pro_32gb": (32, 25, 2, 8, 1024),
    "pro_48gb": (48, 38, 2, 8, 1024),
    "max_64gb": (64, 51, 4, 4, 1024),
    "ultra_96gb": (96, 76, 4, 4, 1024),
    "max_128gb": (128, 102, 4, 4, 1024),
    "ultra_192gb": (192, 153, 8, 2, 2048),
    "cuda_80gb": (80, 64, 4, 4, 1024),
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
    "pro_48gb": {
        "compact": (64, 16, 8),
        "small": (64, 16, 4),
        "medium": (64, 16, 2),
        "large": (64, 16, 1),
    },
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
    "max_128gb": {
        "compact": (64, 16, 8),
        "small": (64, 16, 4),
        "medium": (96, 20, 4),
        "large": (128, 24, 2),
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
HOLDS = {"medium": "pro_32gb", "large": "pro_48gb", "xlarge": "ultra_96gb"}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("profile", PROFILES)
def test_profile_has_the_figures_of_the_table(profile: str, model: str) -> None:
    memory, budget, batch, accumulation, sequence = PROFILES[profile]
    size = TIERS[profile].get(MODELS[model])
    asked = (f"hardware={profile}", f"model={model}", "adapter=qlora")
    if size is None:
        line = refusal(*asked)
        assert f"model={model}: does not fit hardware={profile}" in line
        assert HOLDS[MODELS[model]] in line
        return
    found = config(*asked)
    hardware, train, adapter = found.hardware, found.train, found.adapter
    assert (hardware.memory_gb, hardware.budget_gb, hardware.batch_size) == (memory, budget, batch)
    assert found.memory.budget_gb == budget
    assert train.grad_accumulation_steps == accumulation
    assert train.max_seq_length == sequence
    assert (found.optimizer.learning_rate, train.max_grad_norm) == (2e-4, 1.0)
    assert (adapter.rank, adapter.num_layers, train.batch_size) == size
    assert adapter.alpha == 2 * size[0]
    assert adapter.targets == ("q_proj", "k_proj", "v_proj", "o_proj")


# Every Mac there is: memory and recommended working set in GB, the profile that auto takes,
# and for each model its answer to LoRA in bf16 and in 4 bits. "kept" or "again" is what becomes of
# the activations, "qlora" names that as the way out, "no" names the smallest profile that would do.
MAC_MODELS = (
    "smollm2_135m", "qwen3_1_7b", "hermes_3_8b", "qwen3_14b", "qwen3_32b", "hermes_3_70b",
)  # fmt: skip
MACS = """
  8   5.3 base_16gb   kept  kept   again again  qlora again  no    no     no    no     no    no
 16  11.8 base_16gb   kept  kept   kept  kept   qlora again  no    no     no    no     no    no
 18  13.3 base_16gb   kept  kept   kept  kept   qlora again  no    no     no    no     no    no
 24  17.8 base_16gb   kept  kept   kept  kept   again kept   no    no     no    no     no    no
 32  22.9 pro_32gb    kept  kept   again again  again again  qlora again  no    no     no    no
 36  27.0 pro_32gb    kept  kept   again again  again again  again again  no    no     no    no
 48  36.0 pro_48gb    kept  kept   again again  again again  again again  qlora again  no    no
 64  48.0 max_64gb    kept  kept   kept  kept   kept  kept   again kept   qlora again  no    no
 96  72.0 ultra_96gb  kept  kept   kept  kept   kept  kept   again kept   again again  qlora again
128 107.5 max_128gb   kept  kept   kept  kept   kept  kept   again kept   again kept   qlora again
192 160.0 ultra_192gb kept  kept   kept  kept   again again  again again  again again  again again
256 215.0 ultra_192gb kept  kept   kept  kept   again again  again again  again again  again again
512 430.0 ultra_192gb kept  kept   kept  kept   kept  kept   kept  kept   again again  again again
"""


ALIKE = ("16", "18", "32", "36", "64", "96", "192", "256")  # between the others; slow
LINES = [
    pytest.param(line, id=size, marks=[pytest.mark.slow] * (size in ALIKE))
    for line in MACS.strip().splitlines()
    for size in line.split()[:1]
]


@pytest.mark.parametrize("line", LINES)
def test_every_mac_gets_a_fitting_answer(line: str) -> None:
    memory, working_set, profile, *expected = line.split()
    here = machine("metal", float(memory), float(working_set))
    assert detected_profile(here) == profile
    asked = [(f"model={m}", f"adapter={a}") for m in MAC_MODELS for a in ("lora", "qlora")]
    assert [answer(*overrides, on=here) for overrides in asked] == expected


def answer(*overrides: str, on: Machine) -> str:
    try:
        found, warnings = composed(*overrides, on=on)
    except ConfigError as error:
        assert error.key in ("model", "adapter")
        return "no" if error.key == "model" else error.allowed.rpartition("adapter=")[2]
    assert warnings == []
    assert found.memory.budget_gb == on.budget_gb
    return "again" if found.train.grad_checkpoint else "kept"


def test_weights_that_do_not_fit_are_refused_for_every_adapter() -> None:
    here = machine("metal", 16, 11.8)
    for kind in ("full", "lora", "dora"):
        line = refusal("model=hermes_3_8b", f"adapter={kind}", on=here)
        assert line == (
            f"adapter={kind}: cannot train model=hermes_3_8b: its weights alone take about 14.9 GB "
            "of a budget of 11.8 GB; choose adapter=qlora"
        )
    budget = refusal("model=hermes_3_8b", "memory.budget_gb=2", on=machine("metal", 64, 48))
    assert "choose a smaller model, or raise memory.budget_gb (this machine has 48.0)" in budget


def test_a_model_that_comes_quantised_is_not_taken_for_a_whole_one(model_folder: Path) -> None:
    here = machine("metal", 16, 11.8)
    sizes = json.loads((model_folder / "config.json").read_text())
    large = {**sizes, "hidden_size": 4096, "num_hidden_layers": 40, "intermediate_size": 14336}
    (model_folder / "config.json").write_text(json.dumps({**large, "head_dim": 128}))
    local = ("model=local", f"model.path={model_folder}")
    assert "choose adapter=qlora" in refusal(*local, on=here)
    quantized = {**large, "quantization": {"group_size": 64, "bits": 4}}
    (model_folder / "config.json").write_text(json.dumps(quantized))
    assert composed(*local, on=here)[1] == []
    on_the_hub = ("model=hermes_3_8b", "model.hub_id=mlx-community/Hermes-3-Llama-3.1-8B-4bit")
    assert composed(*on_the_hub, on=here)[1] == []


@pytest.mark.parametrize(
    ("hub_id", "tier", "billions"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "compact", 0.135),
        ("NousResearch/Hermes-3-Llama-3.1-8B", "small", 8),
        ("mlx-community/Qwen3-0.6B-4bit", "compact", 0.6),
        ("Qwen/Qwen3-30B-A3B", "large", 30),
        ("someone/trained-on-100B-tokens", "small", 6.5),  # of another tier: the tier's least
        ("someone/nameless", "medium", 12),
    ],
)
def test_a_name_on_the_hub_says_how_large_a_model_is(
    hub_id: str, tier: str, billions: float
) -> None:
    model = {"hub_id": hub_id, "path": None, "scratch": None, "tier": tier}
    assert parameters_of(model) == pytest.approx(billions * 1e9)


def test_activations_that_the_user_decides_on_stay_so() -> None:
    here = machine("metal", 24, 17.8)
    for said in (True, False):
        found = composed("model=smollm2_135m", f"train.grad_checkpoint={said}", on=here)[0]
        assert found.train.grad_checkpoint is said
    unknown = ("model=smollm2_135m", "model.hub_id=someone/nameless")
    assert composed(*unknown, on=here)[0].train.grad_checkpoint is True


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
    asked = ("hardware=base_16gb", "model=hermes_3_70b", "adapter.rank=4", "adapter=qlora")
    found = config(*asked, "memory.budget_gb=60")
    assert (found.adapter.rank, found.adapter.alpha, found.adapter.num_layers) == (4, 8, 8)
    assert found.train.batch_size == 1


def test_alpha_follows_the_users_rank() -> None:
    assert config("model=smollm2_135m", "adapter.rank=8").adapter.scale == 2
    assert config("model=smollm2_135m", "adapter.rank=8", "adapter.alpha=4").adapter.scale == 0.5


def test_full_training_of_a_model_that_is_too_large() -> None:
    line = refusal("hardware=pro_32gb", "model=hermes_3_8b", "adapter=full", on=machine(memory=16))
    assert line.startswith("adapter=full: cannot train model=hermes_3_8b")
    assert "choose adapter=qlora" in line


def test_profiles_are_read_from_their_files() -> None:
    assert profiles().keys() == PROFILES.keys()
    assert {n: p["memory_gb"] for n, p in profiles().items()} == profile_sizes()
