"""The report on data files as a person or a program reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from lab.data.examine import Example, FileReport
from lab.data.tokenizer import Tokenizer

REPORT_VERSION = 1
NAMED = 5  # lines that a row names
BAD_SHOWN = 20
BAR = 40  # characters of the longest one
TEXT_SHOWN = 240  # characters of a sample's prompt and of what counts
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)  # to which samples may be cut, where none is given


def lines_of(
    reports: Sequence[FileReport], tokenizer: Tokenizer, max_length: int | None
) -> Iterator[str]:
    """Lines on each file, the first one the training data."""
    for report in reports:
        counted = sum(report.counted(max_length))
        yield (
            f"{report.path.name}: {len(report.lengths):,} samples ({report.form}), "
            f"{report.tokens:,} tokens, {counted:,} of them count"
        )
        yield from _histogram(report.lengths)
        yield from _row("cut", _cut(report, max_length))
        yield from _row("duplicates", _pairs(report.duplicates))
        if report is not reports[0]:
            there = reports[0].path.name
            yield from _row(f"in {there} too", _pairs(report.also_in(reports[0])))
        yield from _row("teach nothing", _named(report.teaching_nothing(max_length)))
        yield from _row("bad lines", f"{len(report.bad):,}")
        yield from _bad(report.bad)
        if report.example is not None:
            yield from _example(report.example, tokenizer, max_length)


def shapes_line(facts: Mapping[str, Any]) -> Iterator[str]:
    """The shapes that batches of the training data would have, by :meth:`Plan.facts`."""
    if facts:
        sizes = dict.fromkeys(f"{size} x {width:,}" for size, width, _ in facts["shapes"])
        yield f"in batches of {', '.join(sizes)} tokens, {facts['padded_fraction']:.1%} padding"


def json_of(report: FileReport, train: FileReport, max_length: int | None) -> dict[str, Any]:
    """One file's report for another program; lines are counted from 1."""
    return {
        "file": str(report.path),
        "form": report.form,
        "samples": len(report.lengths),
        "tokens": report.tokens,
        "tokens_that_count": sum(report.counted(max_length)),
        "longest": max(report.lengths),
        "mean": report.tokens / len(report.lengths),
        "median": median(report.lengths),
        "histogram": [{"up_to": edge, "samples": n} for edge, n in _bins(report.lengths).items()],
        "cut": None if max_length is None else report.longer_than(max_length),
        "duplicates": report.duplicates,
        "in_train_too": {} if report is train else report.also_in(train),
        "teach_nothing": report.teaching_nothing(max_length),
        "bad": report.bad,
    }


def _row(name: str, text: str) -> Iterator[str]:
    yield f"  {name:<18} {text}"


def _bins(lengths: Sequence[int]) -> dict[int, int]:
    """Samples by the power of two that their length does not exceed, without holes."""
    found = Counter(max(length - 1, 0).bit_length() for length in lengths)
    return {2**power: found[power] for power in range(min(found), max(found) + 1)}


def _histogram(lengths: Sequence[int]) -> Iterator[str]:
    mean, bins = sum(lengths) / len(lengths), _bins(lengths)
    spread = (
        f"{min(lengths):,} to {max(lengths):,}, mean {mean:,.0f}, median {median(lengths):,.0f}"
    )
    yield from _row("tokens a sample", spread)
    highest = max(bins.values())
    for edge, count in bins.items():
        bar = "█" * round(BAR * count / highest) or "▏" * bool(count)
        yield f"    up to {edge:>7,}  {bar:<{BAR}} {count:,}"


def _cut(report: FileReport, max_length: int | None) -> str:
    count = len(report.lengths)
    if max_length is not None:
        cut = report.longer_than(max_length)
        return f"{cut:,} ({cut / count:.1%}) to {max_length:,} tokens"
    above = [n for n in LENGTHS if report.longer_than(n)]
    shares = [f"{report.longer_than(n) / count:.1%} to {n:,}" for n in above]
    none = next((n for n in LENGTHS if n not in above), None)
    return ", ".join([*shares, *([f"none to {none:,}"] if none else [])])


def _pairs(pairs: Mapping[int, int]) -> str:
    named = ", ".join(f"line {a} is line {b}" for a, b in list(pairs.items())[:NAMED])
    return _shortened(len(pairs), named)


def _named(lines: Sequence[int]) -> str:
    return _shortened(len(lines), ", ".join(f"line {n}" for n in lines[:NAMED]))


def _shortened(count: int, named: str) -> str:
    return f"{count:,}" + (f": {named}" if named else "") + (", ..." if count > NAMED else "")


def _bad(bad: Mapping[int, str]) -> Iterator[str]:
    for number, why in list(bad.items())[:BAD_SHOWN]:
        yield f"    line {number}: {why}"
    if len(bad) > BAD_SHOWN:
        yield f"    and {len(bad) - BAD_SHOWN:,} more"


def _example(example: Example, tokenizer: Tokenizer, max_length: int | None) -> Iterator[str]:
    ids = example.ids[:max_length]
    first = example.prompt  # the very first token is never predicted, but it is no prompt
    counted = len(ids) - max(first, 1)
    yield from _row("a sample", f"line {example.line}, {counted:,} of {len(ids):,} tokens count")
    if first:
        yield f"    masked  {_text(tokenizer.decode(ids[:first]))}"
    yield f"    counts  {_text(tokenizer.decode(ids[first:]))}"


def _text(text: str) -> str:
    """A text on one line, its middle left out where it is long."""
    if len(text) > TEXT_SHOWN:
        text = f"{text[: TEXT_SHOWN // 2]} ... {text[-TEXT_SHOWN // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
