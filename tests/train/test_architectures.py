"""Every architecture and adapter: exact reloads, the loss of plain logits, adapters for mlx-lm."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from lab.config.schema import ConfigError
from lab.data.dataset import open_data
from lab.records.profile import LOOP, Span, summarise_spans
from lab.train import adapters, checkpoint
from lab.train.model import build_model
from lab.train.model_files import load_model
from lab.train.profile_pass import Meter, measure_modules, measure_step, unchanged
from lab.train.session import Session, TrainingContext
from lab.train.stateful import RandomState
from lab.train.step import PredictedLosses
from lab.train.tables import Table, measure_tables
from tests.architectures import CONFIGS, VOCABULARY, make_folder
from tests.runs import config_of

KINDS = ("full", "lora", "dora", "qlora")
SPLIT, LAST = 1, 3
NOTHING: Mapping[str, Any] = {"step": SPLIT, "start": 0.0, "seconds": 0.0}


@dataclass(frozen=True)
class Case:
    """A model folder, and the names of all linear layers and of all experts in its blocks."""

    folder: Path
    linear: tuple[str, ...]
    experts: tuple[str, ...]


@cache
def case_of(model_type: str, root: Path) -> Case:
    from mlx_lm.models.switch_layers import SwitchLinear

    folder = make_folder(model_type, root / model_type)
    found: dict[type, set[str]] = {nn.Linear: set(), SwitchLinear: set()}
    for block in load_model(folder).layers:  # type: ignore[union-attr]
        for path, module in block.named_modules():
            if type(module) in found:
                found[type(module)].add(path.rpartition(".")[2])
    linear, experts = (tuple(sorted(names)) for names in found.values())
    return Case(folder, linear, experts)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("architectures")
    texts = (f"{n} and {n + 1} are {2 * n + 1}; " * 2 for n in range(12))
    (root / "data.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return root


@pytest.fixture
def context(root: Path, model_type: str, kind: str) -> TrainingContext:
    case = case_of(model_type, root)
    if case.experts and mx.default_device().type == mx.gpu:
        pytest.skip("experts are not repeatable on a GPU")
    experts = set(case.experts)
    targets = set(case.linear) - experts if kind == "dora" else {*case.linear, *experts}
    sizes = () if kind == "full" else (
        "adapter.rank=4", "adapter.num_layers=99", f"adapter.targets=[{','.join(sorted(targets))}]",
    )  # fmt: skip
    config = config_of(
        "model=local", f"model.path={case.folder}", f"adapter={kind}", *sizes,
        "data=jsonl", f"data.path={root / 'data.jsonl'}", "data.val_fraction=0",
        "train.val_interval_steps=0", "optimizer=adamw", f"train.steps={LAST}",
        "train.batch_size=2", "train.max_seq_length=48", "train.grad_accumulation_steps=1",
        "train.grad_checkpoint=false",
    )  # fmt: skip
    data = open_data(
        config.data, config.train, config.seed, tokenizer_folder=case.folder, cache_dir=root
    )
    return TrainingContext(config, data, (), case.folder, 0)


def train(session: Session, context: TrainingContext, steps: int) -> list[tuple[float, float]]:
    """Loss and gradient norm of each of some steps."""
    found = []
    for _ in range(steps):
        session.progress.step += 1
        found.append(session.train_step(context.data.train.step(session.progress.step)).evaluate())
    return found


def is_same(left: mx.array, right: mx.array) -> bool:
    return left.shape == right.shape and left.dtype == right.dtype and bool((left == right).all())


every_model = pytest.mark.parametrize("model_type", CONFIGS)
# In turn each kind with a quarter of them; all with all is slow.
IN_TURN = [(name, KINDS[n % 4]) for n, name in enumerate(CONFIGS)]
# Without a backbone, with experts, other mixers, norms around everything, linear attention.
PROFILED = [
    *(("gpt2", "full"), ("olmoe", "lora"), ("granitemoehybrid", "qlora"), ("gemma3", "dora")),
    ("qwen3_next", "lora"),
]
every_pair = pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        pytest.param(name, kind, marks=[] if (name, kind) in IN_TURN else pytest.mark.slow)
        for name in CONFIGS
        for kind in KINDS
    ],
)


@pytest.mark.parametrize(("model_type", "kind"), PROFILED)
def test_a_profile_tells_modules_apart_and_leaves_the_session_as_it_was(
    context: TrainingContext,
) -> None:
    session, straight = Session(context), Session(context)
    assert train(session, context, SPLIT) == train(straight, context, SPLIT)
    meter, batches = Meter(SPLIT, time.monotonic), context.data.train.step(SPLIT)
    classes, key = [type(m) for m in session.model.modules()], RandomState().state_dict()
    with unchanged(session):
        measure_step(session, batches, meter, context.config.train.max_grad_norm)
        measure_modules(session.model, batches, meter, recomputes=False)
    assert [type(m) for m in session.model.modules()] == classes
    assert RandomState().state_dict() == key
    found = summarise_spans([*meter.spans, Span(track=LOOP, name="batch", **NOTHING)])
    assert {part.name for part in found.modules} >= {"embedding", "mlp", "norm", "other"}
    assert sum(part.kept or 0 for part in found.modules) > 0
    assert train(session, context, LAST - SPLIT) == train(straight, context, LAST - SPLIT)
    ours, theirs = session.weights(), straight.weights()
    assert all(is_same(ours[name], theirs[name]) for name in ours)


@every_pair
def test_a_reload_is_exact_and_mlx_lm_loads_what_was_trained(
    context: TrainingContext, tmp_path: Path
) -> None:
    straight = Session(context)
    losses = train(straight, context, SPLIT)
    config = adapters.adapter_config(straight.model, context.config.adapter)
    checkpoint.save(tmp_path, straight.snapshot(), config)
    losses += train(straight, context, LAST - SPLIT)
    assert all(loss > 0 and norm > 0 for loss, norm in losses)

    reloaded = Session(context, tmp_path / f"step_{SPLIT}")
    assert train(reloaded, context, LAST - SPLIT) == losses[SPLIT:]
    ours, theirs = straight.weights(), reloaded.weights()
    assert ours.keys() == theirs.keys()
    assert all(is_same(ours[name], theirs[name]) for name in ours)

    folder = checkpoint.save(tmp_path, straight.snapshot(), config)
    assert is_same(logits_of(straight.model), logits_of(by_mlx_lm(context, folder)))


def by_mlx_lm(context: TrainingContext, adapter_folder: Path) -> nn.Module:
    """The base, quantised where the run's is, with the adapter by mlx-lm's own loader."""
    from mlx_lm.tuner.utils import load_adapters

    config, folder = context.config, context.folder
    assert folder is not None
    if config.adapter.kind == "qlora":
        base = load_model(folder)
        nn.quantize(
            base, 64, 4,
            class_predicate=lambda _, module: hasattr(module, "to_quantized")
            and module["weight"].shape[-1] % 64 == 0,
        )  # fmt: skip
    else:
        base = load_model(folder)
    return load_adapters(base, str(adapter_folder))


def logits_of(model: nn.Module) -> mx.array:
    model.eval()
    return model(mx.array([[5, 100, 33, 7, 250, 18]]))


@every_model
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_loss_is_that_of_plain_logits(context: TrainingContext) -> None:
    config = context.config
    plain, narrowed = (
        build_model(
            config.model, config.adapter, folder=context.folder, vocab_size=0, dtype=mx.float32
        )
        for _ in range(2)
        if mx.random.seed(3) is None
    )
    [batch] = context.data.train.step(1)
    inputs, rows, targets = (
        mx.array(array)  # type: ignore[arg-type]
        for array in (batch.inputs, batch.rows, batch.targets)
    )
    predicted = PredictedLosses(narrowed)

    def of_plain_logits() -> mx.array:
        logits = plain(inputs).astype(mx.float32)
        return nn.losses.cross_entropy(logits.reshape(-1, logits.shape[-1])[rows], targets).mean()

    losses, grads = zip(
        nn.value_and_grad(plain, of_plain_logits)(),
        nn.value_and_grad(narrowed, lambda: predicted(inputs, rows, targets).mean())(),
        strict=True,
    )
    assert mx.allclose(*losses, rtol=1e-5)
    expected, found = (tree_flatten(grad, destination={}) for grad in grads)
    assert expected.keys() == found.keys()
    largest = max(mx.abs(grad).max().item() for grad in expected.values())
    for name, grad in expected.items():
        assert mx.allclose(grad, found[name], rtol=1e-3, atol=1e-5 * largest), name


# --- Adapters of unlike blocks ------------------------------------------------------------------


def adapter_of(**changed: Any) -> Any:
    config = config_of("adapter=lora", "adapter.rank=4", "adapter.num_layers=9").adapter
    return type(config)(**{**vars(config), **changed})


@pytest.mark.parametrize(
    ("model_type", "targets", "keys"),
    [
        (
            "qwen3_moe",  # a dense block, then experts
            ("gate_proj", "q_proj"),
            ["mlp.gate_proj", "mlp.switch_mlp.gate_proj", "self_attn.q_proj"],
        ),
        ("lfm2", ("in_proj", "q_proj"), ["conv.in_proj", "self_attn.q_proj"]),
        ("qwen3_next", ("in_proj_ba", "o_proj"), ["linear_attn.in_proj_ba", "self_attn.o_proj"]),
    ],
)
def test_the_config_names_the_layers_of_all_adapted_blocks(
    root: Path, model_type: str, targets: tuple[str, ...], keys: list[str]
) -> None:
    model = load_model(case_of(model_type, root).folder)
    adapter = adapter_of(targets=targets)
    adapters.add_adapter(model, adapter)
    config: Any = adapters.adapter_config(model, adapter)
    assert config["lora_parameters"]["keys"] == keys
    assert config["num_layers"] == len(model.layers)  # type: ignore[arg-type]


def test_a_target_that_no_adapted_block_has_is_refused_with_those_that_exist(root: Path) -> None:
    model = load_model(case_of("lfm2", root).folder)
    with pytest.raises(ConfigError) as error:
        adapters.add_adapter(model, adapter_of(targets=("c_attn",)))
    assert error.value.key == "adapter.targets"
    names = "in_proj, k_proj, out_proj, q_proj, v_proj, w1, w2, w3"
    assert error.value.allowed == f"must be a layer of the last 4 blocks: {names}"
    with pytest.raises(ConfigError, match="of the last block: in_proj, out_proj, w1, w2, w3"):
        adapters.add_adapter(model, adapter_of(targets=("q_proj",), num_layers=1))


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_dora_on_experts_is_refused(root: Path, model_type: str) -> None:
    case = case_of(model_type, root)
    adapter = adapter_of(kind="dora", targets=case.experts)
    with pytest.raises(ConfigError, match="is a SwitchLinear, which dora cannot adapt"):
        adapters.add_adapter(load_model(case.folder), adapter)


# --- Tables -------------------------------------------------------------------------------------


@every_model
def test_a_models_tables_are_found_and_the_model_is_left_as_it_was(
    root: Path, model_type: str
) -> None:
    model = load_model(case_of(model_type, root).folder)
    model.train()
    classes = [type(module) for module in model.modules()]
    random_state = mx.random.state[0].tolist()  # type: ignore[index]
    tables = measure_tables(model)
    assert tables.token_ids.rows == VOCABULARY
    assert tables.positions == (Table("model.wpe", 256) if model_type == "gpt2" else None)
    assert [type(module) for module in model.modules()] == classes
    assert mx.random.state[0].tolist() == random_state  # type: ignore[index]
    assert model.training


def test_tables_are_found_through_an_adapter(root: Path) -> None:
    model = load_model(case_of("gpt2", root).folder)
    adapters.add_adapter(model, adapter_of(targets=("c_attn",)))
    model.model.wte = adapters._adapted("wte", model.model.wte, adapter_of())  # type: ignore[union-attr]
    assert measure_tables(model).token_ids == Table("model.wte.embedding", VOCABULARY)


class Guarded(nn.Module):
    """Maps ids beyond a smaller table to its first row, as some models do for some layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.small = nn.Embedding(64, 8), nn.Embedding(16, 8)
        self.positions = nn.Embedding(20, 8)

    def __call__(self, ids: mx.array) -> mx.array:
        known = mx.where(ids < 16, ids, 0)
        places = mx.arange(ids.shape[1]) + 2
        hidden = self.embed(ids) + self.small(known) + self.positions(places)
        return self.embed.as_linear(hidden)


def test_a_table_that_the_model_guards_bounds_nothing() -> None:
    tables = measure_tables(Guarded())
    assert tables.token_ids == Table("embed", 64)
    assert tables.positions == Table("positions", 18)  # two rows are skipped
