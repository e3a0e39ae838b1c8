"""``lab explain``: what grows in a run, who holds it, what gives it back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.config.schema import ConfigError
from lab.explain.curve import explain_curve
from lab.explain.explanation import EXPLAIN_FILE, Explanation, read_content
from lab.explain.report import headline, lines
from lab.records.files import RunBusy, check_idle, read_summary
from lab.records.rows import check_rows, finite, read_rows
from lab.tracking.printed import print_line

INDENT = 11  # of what a line says after its heading
CURVE = "its curve alone: no census was taken"


def explain_one(run_dir: Path, as_json: bool) -> int:
    """Print the explanation of one run, from its census or else from its curve.

    Raises:
        ConfigError: there is no run, or its ``explain.json`` or its rows cannot be read.
    """
    found, source = find_explanation(run_dir)
    if as_json:
        return _print_json(found)
    for line in (*lines(Explanation.of(found)), f"  {'from':<8} {source}{_state(run_dir)}"):
        print_line(line, indent=INDENT if line.startswith("  ") else 2)
    return 0


def explain_sweep(run_dirs: Sequence[Path], as_json: bool) -> int:
    """Print one line for each run of a sweep; a run that cannot be read is said, and no error."""
    found: dict[str, Any] = {}
    for run_dir in run_dirs:
        try:
            found[run_dir.name] = find_explanation(run_dir)[0]
        except ConfigError as error:
            found[run_dir.name] = {"error": str(error)}
    if as_json:
        return _print_json(found)
    width = max(map(len, found), default=0)
    for name, content in found.items():
        said = content.get("error") or headline(Explanation.of(content))
        print_line(f"{name:<{width}}  {said}", indent=width + 2)
    return 0


def find_explanation(run_dir: Path) -> tuple[Mapping[str, Any], str]:
    """The content of a run's ``explain.json``, or of one made from its curve, and which it is."""
    content = read_content(run_dir)
    if content is not None:
        explained = Explanation.of(content)
        no_census = explained.step is None and explained.copied is not None
        return content, CURVE if no_census else f"a census of the running process ({EXPLAIN_FILE})"
    if not (run_dir / "metrics.jsonl").is_file():
        raise ConfigError("run", run_dir, "holds no metrics.jsonl; give the folder of a run")
    check_rows(run_dir)
    return explain_curve(read_rows(run_dir)), CURVE


def _print_json(content: Mapping[str, Any]) -> int:
    """Print it in ASCII, NaN as null: what anybody wrote may be no text for a terminal."""
    try:
        print(json.dumps(finite(content), indent=2))
    except RecursionError as error:
        raise ConfigError("run", "", f"{EXPLAIN_FILE} is nested too deeply") from error
    return 0


def _state(run_dir: Path) -> str:
    """What became of the run, where it has not simply ended."""
    try:
        check_idle(run_dir)
        state = read_summary(run_dir).get("state", "killed")
    except RunBusy:
        return "; the run still goes on"
    except (ConfigError, OSError):
        return ""
    return "" if state == "completed" else f"; the run was {state}"
