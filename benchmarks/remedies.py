"""The table of ``docs/explaining.md``: what the lab said of each growth mode, and what it did.

``python -m benchmarks.remedies`` runs ``experiment=remedies`` and writes the table; overrides that
are given go to the sweep. ``python -m benchmarks.remedies SWEEP_DIR`` takes a sweep that was run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.catalog.find import find_runs
from lab.compare.read import Run, read_run
from lab.config.schema import ConfigError
from lab.explain.explanation import Explanation
from lab.faults.truth import TRUTHS
from lab.records.replace import replacing

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "explaining.md"
# A folder that holds a sweep is refused, so each has its own.
NEW = ROOT / "outputs" / "benchmarks" / f"remedies_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
BEGIN, END = "<!-- begin: benchmarks.remedies -->", "<!-- end: benchmarks.remedies -->"
NOTHING = Explanation()
POLICIES = ("none", "interval", "threshold", "adaptive")
SAID = ("fault", "kind", "holder", "remedy", "right in", "advice")
PEAKS, SECONDS = (f"peak, {p}" for p in POLICIES), (f"s, {p}" for p in POLICIES[1:])
DONE = ("fault", "adaptive did", *PEAKS, *SECONDS)


@dataclass(frozen=True)
class Row:
    """All runs of one fault, by policy."""

    fault: str
    runs: Mapping[str, Run]

    @property
    def verdicts(self) -> list[str]:
        """What is wrong in the explanation of each run; empty where it is right."""
        return [wrong(self.fault, run.explained or NOTHING) for run in self.runs.values()]

    def said(self) -> list[str]:
        """What the lab said, of the run without reloads if there is one."""
        run = self.runs.get("none") or next(iter(self.runs.values()))
        found = run.explained or NOTHING
        right = f"{self.verdicts.count('')} of {len(self.verdicts)}"
        faults = "; ".join(dict.fromkeys(filter(None, self.verdicts)))
        return [
            f"`{self.fault}`",
            found.kind or "nothing grows",
            f"`{found.holder}`" if found.holder else "",
            found.remedy,
            f"{right}: {faults}" if faults else right,
            found.advice,
        ]

    def done(self) -> list[str]:
        """What each policy made of it; a policy that was not run has empty cells."""
        adaptive = self.runs.get("adaptive")
        return [
            f"`{self.fault}`",
            taken(adaptive) if adaptive else "",
            *(peak(self.runs[p]) if p in self.runs else "" for p in POLICIES),
            *(remedy_seconds(self.runs[p]) if p in self.runs else "" for p in POLICIES[1:]),
        ]


def wrong(fault: str, found: Explanation) -> str:
    """What an explanation got wrong, against ``lab/faults/truth.py``; empty if it is right."""
    if fault not in TRUTHS:
        return f"{found.kind} where nothing grows" if found.grows else ""
    if not found.grows:
        return "growth not seen"
    truth = TRUTHS[fault]
    parts = [
        f"{name} {said or 'none'}, is {true}"
        for name, said, true in (
            ("kind", found.kind, truth.kind),
            ("remedy", found.remedy, truth.remedy),
        )
        if said != true
    ]
    if truth.holder is not None and truth.holder not in found.holder:
        parts.append(f"holder {found.holder or 'none'}, has {truth.holder}")
    return ", ".join(parts)


def taken(run: Run) -> str:
    """Remedies and reloads of a run, in words."""
    reloads = Counter(f"reload_{event.method}" for event in run.reloads)
    done = (*run.figures.remedies.items(), *reloads.items())
    return ", ".join(f"{count} {name}" for name, count in done) or "nothing"


def peak(run: Run) -> str:
    """The highest process memory in MB, and how the run ended if it did not complete."""
    known = run.figures.peak_process_gb
    text = "-" if known is None else f"{known * 1024:.0f}"
    return text if run.state == "completed" else f"{text} ({run.state})"


def remedy_seconds(run: Run) -> str:
    """Seconds in reloads and remedies."""
    return f"{run.figures.remedy_seconds:.2f}"


# --- The sweep, and the page --------------------------------------------------------------------


def rows_of(sweep: Path) -> list[Row]:
    """The runs of a sweep by fault, in the sweep's order.

    Raises:
        ConfigError: there are none.
    """
    runs: dict[str, dict[str, Run]] = {}
    for location in find_runs([sweep]).locations:
        run = read_run(location)
        if run.settings:
            fault, policy = (str(run.settings[key]) for key in ("fault", "reload.policy"))
            runs.setdefault(fault, {})[policy] = run
    return [Row(fault, of_fault) for fault, of_fault in runs.items()]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The section of the page, line by line."""
    right = sum(row.verdicts.count("") for row in rows)
    runs = [run for row in rows for run in row.runs.values()]
    steps = max((run.figures.steps for run in runs), default=0)
    yield (
        f"{len(runs)} runs of {steps} steps; kind, holder and remedy are right in {right}. "
        "The holder and advice are those of the run without reloads."
    )
    yield ""
    yield from _lines(SAID, (row.said() for row in rows))
    yield ""
    yield (
        "Peaks are of the process, in MB; `none` has a budget of 1 GB. Seconds are those in "
        "remedies and reloads, on a machine that others used too."
    )
    yield ""
    yield from _lines(DONE, (row.done() for row in rows))


def _lines(heads: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for cells in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def with_section(page: str, section: str) -> str:
    """The page with what stands between its two markers replaced.

    Raises:
        ConfigError: it does not have both of them once.
    """
    if (page.count(BEGIN), page.count(END)) != (1, 1):
        raise ConfigError("page", PAGE.name, f"needs one line {BEGIN} and one {END}")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{section}\n{END}{rest.partition(END)[2]}"


def run_sweep(folder: Path, overrides: Sequence[str]) -> int:
    """Run ``experiment=remedies``, into a folder."""
    command = (sys.executable, ROOT / "train.py", "-m", "experiment=remedies")
    words = [*command, f"hydra.sweep.dir={folder}", *overrides]
    return subprocess.run(words, check=False).returncode


def main() -> int:
    """Write the section; 1 where an explanation is wrong, 2 where there is no sweep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remedies", description=__doc__)
    parser.add_argument("given", nargs="*", metavar="SWEEP_DIR | OVERRIDE")
    parser.add_argument("--page", type=Path, default=PAGE, help="the file with the two markers")
    parser.add_argument("--into", type=Path, default=NEW, help="the folder of a sweep that is run")
    arguments = parser.parse_intermixed_args()
    folders = [Path(word) for word in arguments.given if "=" not in word]
    sweep = folders[0] if folders else arguments.into
    if not folders and (code := run_sweep(sweep, arguments.given)):
        return code
    try:
        rows = rows_of(sweep)
        section = "\n".join(table(rows))
        page = with_section(arguments.page.read_text(encoding="utf-8"), section)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    with replacing(arguments.page.parent) as new:
        (new / arguments.page.name).write_text(page, encoding="utf-8")
    print(section)
    return 0 if all(verdict == "" for row in rows for verdict in row.verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
