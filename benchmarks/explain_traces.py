"""Memory traces of healthy runs of random shape: ``python -m benchmarks.explain_traces FOLDER``.

Each run is a real ``python train.py`` without a fault, drawn from a seed: sizes, batch, sequence
length, ragged data, accumulation, validation, checkpoints, cache limit and clearing, adapter,
optimizer, compiled or not, now and then with reloads. FOLDER/SEED keeps ``metrics.jsonl``,
``events.jsonl`` and ``config.yaml``; a run that is there is not made again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[1]
MOST_TOKENS = 512  # of a batch, so that a run takes seconds
KEPT = ("metrics.jsonl", "events.jsonl", "config.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explain_traces")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", type=int, default=0, help="seed of the first run")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--model", type=Path, help="a folder as model.path: LoRA on it instead")
    arguments = parser.parse_args()
    for seed in range(arguments.first, arguments.first + arguments.runs):
        overrides = pretrained(seed, arguments.model) if arguments.model else tiny(seed)
        collect(arguments.folder / f"{'lora_' if arguments.model else ''}{seed}", seed, overrides)


def tiny(seed: int) -> list[str]:
    """Overrides of a run of the tiny model, or one of its size."""
    random = Random(seed)
    heads = random.choice((2, 4))
    steps = random.choices((150, 200, 300, 600, 1000), (12, 5, 3, 1, 1))[0]
    adapter = random.choice(("full", "full", "lora"))
    length = random.choice((32, 64, 128, 256, 400))
    batch = max(1, min(random.choice((1, 2, 4, 8)), MOST_TOKENS // length))
    accumulation = random.choice((1, 1, 1, 2, 3)) if batch * length <= MOST_TOKENS // 2 else 1
    return [
        f"train.steps={steps}",
        f"adapter={adapter}",
        f"model.scratch.num_heads={heads}",
        f"model.scratch.hidden_size={heads * random.choice((8, 16, 32))}",
        f"model.scratch.num_layers={random.choice((1, 2, 4))}",
        f"train.batch_size={batch}",
        f"train.max_seq_length={length}",
        f"train.grad_accumulation_steps={accumulation}",
        *common(random, steps, random.choice((1, 8, 32, 128))),
    ]


def pretrained(seed: int, folder: Path) -> list[str]:
    """Overrides of a run of LoRA on a model in a folder, with ragged data."""
    random = Random(seed)
    steps = random.choice((60, 80, 120))
    return [
        "model=local",
        f"model.path={folder.resolve()}",
        "adapter=lora",
        f"adapter.rank={random.choice((4, 8, 16))}",
        f"adapter.num_layers={random.choice((2, 4, 8))}",
        f"train.steps={steps}",
        f"train.batch_size={random.choice((1, 2))}",
        "train.grad_accumulation_steps=1",
        "train.grad_checkpoint=false",
        f"train.max_seq_length={random.choice((96, 192, 384))}",
        *common(random, steps, random.choice((1, 8, 32))),
    ]


def common(random: Random, steps: int, pad: int) -> list[str]:
    """What both models draw from.

    Left out is what does grow by itself where lengths vary: compiled steps, and a cache of 1 GB or
    more that nothing clears.
    """
    clears = random.choice((0, 1, 7, 10, 10, 25, 50, 90))
    largest = 0.1 if clears == 0 and pad < 32 else 4
    limit = min(random.choice((0, 0.02, 0.1, 0.1, 1, 4)), largest)
    optimizer = random.choice(("adamw", "adamw", "adam", "sgd", "adafactor", "muon"))
    reload = random.choice(("none",) * 6 + ("in_process", "process"))
    policy = ["reload=none"]
    if reload != "none":
        policy = ["reload=interval", f"reload.interval_steps={steps // 3}"]
        policy.append(f"reload.method={reload}")
    return [
        f"seed={random.randrange(1000)}",
        f"optimizer={optimizer}",
        "worker.threads=1",
        "data.max_shapes=0",
        f"data.pad_multiple={pad}",
        f"train.compile={'true' if pad >= 32 and random.random() < 0.4 else 'false'}",
        f"train.val_interval_steps={random.choice((0, 20, 50, 100))}",
        f"train.val_batches={random.choice((1, 4, 8))}",
        f"checkpoint.interval_steps={random.choice((0, 10, 50, 100))}",
        f"memory.cache_clear_interval={clears}",
        f"memory.cache_limit_gb={limit}",
        *policy,
    ]


def collect(folder: Path, seed: int, overrides: list[str]) -> None:
    """Run it in a folder that is removed but for what is kept."""
    if (folder / KEPT[0]).is_file():
        return
    scratch = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    command = [sys.executable, "train.py", "tracker=none", f"hydra.run.dir={scratch}", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{seed}: exit code {done.returncode}: {done.stderr[-300:]}", flush=True)
    else:
        folder.mkdir(parents=True)
        for name in KEPT:
            shutil.copy2(scratch / name, folder)
        print(f"{seed}: {done.stdout.splitlines()[-6] if done.stdout else ''}", flush=True)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
