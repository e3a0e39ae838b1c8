"""``python -m benchmarks [NAME ...]``: measure, print a table each, write outputs/benchmarks."""

from __future__ import annotations

import argparse
import inspect
import json
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks.report import Report
from benchmarks.workspace import ROOT, Options, Workspace, say

QUICK = (
    "startup",
    "probe",
    "reload",
    "recovery",
    "bare_loop",
    "mlx_lm",
    "full_1000",
    "sweep",
    "compare",
    "explain",
    "whatif",
)
# Only when named, or with --all.
SLOW = ("flat", "diagnose", "diagnose_slowly", "diagnose_smollm2", "adaptive")
RESULTS = ROOT / "outputs" / "benchmarks"


def main() -> int:
    """Run the chosen benchmarks; 1 if a goal was missed."""
    arguments = _arguments()
    if arguments.list:
        for name in (*QUICK, *SLOW):
            about, _ = _about(name)
            print(f"{name:<16} {about}{' (slow)' if name in SLOW else ''}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that child processes are ended
    options = Options(arguments.rounds, arguments.steps)
    names = arguments.names or (*QUICK, *(SLOW if arguments.all else ()))
    reports = [_run(name, options) for name in names]
    return 0 if all(report.is_reached for report in reports) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which; see --list; by default all that are quick"
    )
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--all", action="store_true", help="the slow ones too")
    parser.add_argument("--rounds", type=int, help="how often each side is measured")
    parser.add_argument("--steps", type=int, help="steps of a run, where it can be chosen")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in (*QUICK, *SLOW):
            parser.error(f"{name}: must be one of {', '.join((*QUICK, *SLOW))}")
    return arguments


def _about(name: str) -> tuple[str, str]:
    """What a benchmark measures, in one line, and how: its docstring in two."""
    title, _, how = inspect.cleandoc(import_module(f"benchmarks.{name}").__doc__ or "").partition(
        "\n\n"
    )
    return title, how


def _run(name: str, options: Options) -> Report:
    say(name)
    with tempfile.TemporaryDirectory(prefix="lab-benchmark-") as folder:
        report: Report = import_module(f"benchmarks.{name}").measure(
            Workspace(Path(folder)), options
        )
    title, how = _about(name)
    written = {"name": name, "title": title, "how": " ".join(how.split()), **report.to_json()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
    print(f"\n{name}: {title}\n\n{report}\n\n{how}\n", flush=True)
    return report


if __name__ == "__main__":
    sys.exit(main())
