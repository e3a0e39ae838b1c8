"""Download a dataset of the Hugging Face hub and write it as JSONL.

Run as a child process (``python hub.py FOLDER ID [CONFIG]``): ``datasets`` imports pyarrow and
pandas, about 200 MB that must not stay in the training process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CACHE_VERSION = 1
SPLIT_FILES = {"train": "train.jsonl", "validation": "valid.jsonl", "valid": "valid.jsonl"}


def main(folder: Path, hub_id: str, config: str | None) -> str | None:
    """Write ``train.jsonl`` and, where there is such a split, ``valid.jsonl``.

    Returns:
        An error message, or ``None`` on success; also the child's exit status.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "needs the datasets package: pip install 'mlx-memory-lab[hub]'"
    if (
        int(datasets.__version__.split(".")[0]) < 4
    ):  # older versions execute a dataset's own loading script
        return f"needs datasets 4 or later, this is {datasets.__version__}"
    datasets.disable_progress_bars()
    try:
        splits = datasets.load_dataset(hub_id, config)
        if "train" not in splits:
            return f"has the splits {', '.join(splits)}; must have one that is called train"
        for name, file in SPLIT_FILES.items():
            if name in splits:
                _write(splits[name], folder / file)
    except Exception as error:  # noqa: BLE001  offline, unknown, gated, damaged: no common base class
        return f"cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _write(split: Any, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in split:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None))
