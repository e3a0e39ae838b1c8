"""The text report of a reproduction: verdict, environment differences, figures then and now."""

from __future__ import annotations

from lab.reproduce.compare_records import Difference, RecordComparison, Records, mapping
from lab.tracking.text import number

LARGEST = 2**53  # beyond it a figure is damage

TABLE_FIGURES = {
    "peak of the process": ("peak_process_gb", ".3f", "GB"),
    "mean of the process": ("mean_process_gb", ".3f", "GB"),
    "peak of MLX": ("peak_mlx_gb", ".3f", "GB"),
    "slope": ("slope_mb_per_step", ".3f", "MB a step"),
    "speed": ("tokens_per_second", ",.0f", "tokens/s"),
}


def report(comparison: RecordComparison, then: Records, now: Records) -> str:
    """The report as lines of text.

    Arguments:
        then: of the run.
        now: of its reproduction.
    """
    lines = [_headline(comparison, then, now)]
    if comparison.why_not and not comparison.unfinished:
        lines.append(f"  weights are not compared: {comparison.why_not}")
    elif comparison.first and comparison.weights is not None:
        lines.append(f"  weights: {'the same' if comparison.weights else 'different'}")
    lines += [f"  environment: {difference}" for difference in comparison.environment]
    if then.environment and not comparison.environment:
        lines.append("  environment: the same")
    return "\n".join([*lines, *_table(then, now)])


def _headline(comparison: RecordComparison, then: Records, now: Records) -> str:
    match comparison.verdict:
        case "identical":
            word = "the same" if comparison.tolerance else "identical"
            return f"{word}: {_agreement(comparison, then)}"
        case "undecided":
            end = f"the reproduction {comparison.unfinished} after {_steps(now.steps)}"
            until = f"; until then the same: {_agreement(comparison, then)}"
            return f"cannot be compared: {end}{until if comparison.same else ''}"
    if comparison.first_step is None:
        weights = Difference("the weights,", then.weights, now.weights)
        return f"different: {weights}; the same: {_agreement(comparison, then)}"
    count, total = comparison.differing, comparison.same + comparison.differing
    first = "; ".join(map(str, comparison.first))
    return (
        f"different: {count} of {_steps(total)}, the first is step {comparison.first_step}: {first}"
    )


def _agreement(comparison: RecordComparison, then: Records) -> str:
    """What agrees, e.g. ``8 steps, loss, learning rate, tokens and weights, bit for bit``."""
    same, tolerance = comparison.same, comparison.tolerance
    if then.lost_rows and comparison.weights:
        return f"the weights, bit for bit; {then.lost_rows}"
    count = _steps(same) if same >= then.steps else f"{same} of {_steps(then.steps)}"
    with_weights = "learning rate, tokens and weights"
    exact = with_weights if comparison.weights else "learning rate and tokens"
    if tolerance:
        return f"{count}, loss within {tolerance:.0%}, {exact} bit for bit"
    return f"{count}, loss, {exact}, bit for bit"


def _table(then: Records, now: Records) -> list[str]:
    rows = [
        (name, _figure(then.figures.get(key), form), _figure(now.figures.get(key), form), unit)
        for name, (key, form, unit) in TABLE_FIGURES.items()
    ]
    cells = [
        ("", "then", "now", ""),
        ("steps", str(then.steps), str(now.steps), ""),
        *rows,
        ("time", *(_figure(_seconds(r), ",.1f") for r in (then, now)), "s"),
        ("reloads", *(_figure(_reloads(r), "d") for r in (then, now)), ""),
    ]
    return [f"  {name:<19}  {a:>9}  {b:>9}  {unit}".rstrip() for name, a, b, unit in cells]


def _seconds(records: Records) -> object:
    return mapping(records.figures.get("seconds")).get("total")


def _reloads(records: Records) -> object:
    counts = mapping(records.figures.get("reloads")).values()
    return sum(count for count in counts if isinstance(count, int))


def _figure(value: object, form: str) -> str:
    is_number = isinstance(value, int | float) and abs(value) < LARGEST
    return number(value if is_number else None, form)


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"
