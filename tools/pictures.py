"""Make the pictures of README and docs again, from real runs.

    python -m tools.pictures [NAME ...]

Each is what a command of the docs draws; the names are those of the files in ``docs/``. A run takes
a minute, the sweep four.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GROWING_CACHE = (
    *("data.max_shapes=0", "data.pad_multiple=1", "train.batch_size=2"),
    *("train.max_seq_length=512", "memory.cache_clear_interval=0", "memory.cache_limit_gb=4"),
)
LATE_LIST = ("fault=module_list", "fault.module_list.start_step=40", "memory.budget_gb=0.14")


@dataclass(frozen=True)
class Source:
    """What pictures are drawn from.

    Attributes:
        train: overrides of ``python train.py``.
        lab: a command of ``lab`` after it, which gets the folder; none where the run draws it.
        pictures: file in ``docs/``, by the file in the run's or sweep's folder.
    """

    train: Sequence[str]
    lab: Sequence[str]
    pictures: dict[str, str]


SOURCES = (
    Source(
        (
            *("name=reload-above-0.8-GB", "train.steps=300", "train.val_interval_steps=50"),
            *(*GROWING_CACHE, "reload=threshold", "reload.memory_threshold_gb=0.8"),
            "explain.enabled=false",  # a census empties the cache
        ),
        (),
        {"memory.png": "memory.png"},
    ),
    Source(
        ("-m", "experiment=threshold_sweep"),
        ("compare",),
        {"compare.html": "compare_page.png", "compare.png": "compare.png"},
    ),
    Source(
        ("experiment=threshold_sweep", "reload=none"),
        (
            *("whatif", "reload=none,interval,threshold", "reload.interval_steps=10,25,50,100"),
            *("reload.memory_threshold_gb=0.25,0.5,1", "memory.budget_gb=0.6"),
        ),
        {"whatif.png": "whatif.png"},
    ),
    Source(
        ("reload=adaptive", *LATE_LIST, "train.steps=240"),
        (),
        {"memory.png": "explaining.png"},
    ),
)


def main() -> int:
    """Make those that are named, or all; return the exit code."""
    names = [name for source in SOURCES for name in source.pictures.values()]
    parser = argparse.ArgumentParser(prog="python -m tools.pictures", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    wanted = parser.parse_args().names or names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"there is no {unknown[0]}: one of {', '.join(names)}")
    for source in SOURCES:
        if set(wanted) & set(source.pictures.values()):
            _make(source, wanted)
    return 0


def _make(source: Source, wanted: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="lab-pictures-") as scratch:
        _run(scratch, str(ROOT / "train.py"), *source.train, "tracker=none")
        [folder] = Path(scratch).glob("outputs/*/*/*/")
        if source.lab:
            command, *settings = source.lab
            _run(scratch, "-m", "lab.cli", command, str(folder), *settings)
        for drawn, name in source.pictures.items():
            if name in wanted:
                _copy(folder / drawn, DOCS / name)
                print(DOCS / name)


def _run(folder: str, *words: str) -> None:
    subprocess.run([sys.executable, *words], cwd=folder, check=True)


def _copy(drawn: Path, picture: Path) -> None:
    """A picture as it is, a page as a browser shows it first."""
    if drawn.suffix != ".html":
        shutil.copy(drawn, picture)
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(drawn.as_uri())
        page.wait_for_load_state("networkidle")
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
