"""``lab data``: what is in a JSONL file, as training would read it."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.keys import Config
from lab.config.schema import ConfigError, from_words, setting

if TYPE_CHECKING:
    from lab.data.examine import FileReport


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    parser.add_argument("path", help="a JSONL file, or a folder with train.jsonl")
    parser.add_argument(
        "--model", metavar="PATH_OR_RUN", help="whose tokenizer reads it; default: bytes"
    )
    parser.add_argument("--max-seq-length", metavar="N", help="tokens that a sample is cut to")
    parser.add_argument("--json", action="store_true", help="everything, for another program")


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How the data would be read.

    Attributes:
        tokenizer: the model's folder; None for bytes.
        run: whose batches it would come in; None where no run was given.
    """

    tokenizer: str | None = setting(None)
    mask_prompt: bool = setting(True)
    max_seq_length: int | None = setting(None, at_least=8, unit="tokens")
    run: Config | None = None


def run(arguments: Namespace) -> int:
    """Report; return 1 where there is a line that training would refuse."""
    from lab.data.examine import examine
    from lab.data.shown import REPORT_VERSION, json_of, lines_of, shapes_line
    from lab.data.sources import jsonl_path, unread
    from lab.data.tokenizer import load_tokenizer
    from lab.tracking.text import clean

    path = jsonl_path(arguments.path, "data")
    reader = _reader(arguments.model, arguments.max_seq_length)
    folder, length = reader.tokenizer and Path(reader.tokenizer), reader.max_seq_length
    tokenizer = load_tokenizer(folder or None)
    reports = [
        examine(
            file,
            tokenizer,
            key="data",
            mask_prompt=reader.mask_prompt,
            max_length=length,
            progress=lambda text: print(text, file=sys.stderr),
        )
        for file in _files(path)
    ]
    facts = _batches(reports[0], reader)
    if arguments.json:
        files = [json_of(report, reports[0], length) for report in reports]
        known = {"tokenizer": reader.tokenizer, "max_seq_length": length, **facts}
        print(json.dumps({"version": REPORT_VERSION, **known, "files": files}, indent=1))
    else:
        has_valid = path.is_file() or (path / "valid.jsonl").exists()
        notes = () if has_valid else unread(path)
        print(
            f"read as {folder or 'bytes'}, {'prompts' if reader.mask_prompt else 'nothing'} masked"
        )
        for line in (*lines_of(reports, tokenizer, length), *shapes_line(facts), *notes):
            print(clean(line))
    return 1 if any(report.bad for report in reports) else 0


def _batches(report: FileReport, reader: Reader) -> dict[str, Any]:
    """Shapes and padding of the batches that a run would make of all samples of a file."""
    from lab.data.plan import Measured, Plan

    if reader.run is None or reader.max_seq_length is None:
        return {}
    length = reader.max_seq_length
    measured = Measured.of(report.path, report.lengths, report.prompts, length)
    train = replace(reader.run.train, max_seq_length=length)
    return Plan(measured, [], reader.run.data, train).facts()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = [path / name for name in ("train.jsonl", "valid.jsonl", "test.jsonl")]
    return [file for file in files if file.exists()]


def _reader(model: str | None, max_seq_length: str | None) -> Reader:
    """What the model's folder or the run says, and over it what is typed."""
    typed = from_words(Reader, {"max_seq_length": max_seq_length})
    if model is None or (Path(model) / "config.json").is_file():
        return Reader(tokenizer=model, max_seq_length=typed.max_seq_length)
    from lab.catalog.names import folder_of
    from lab.reproduce.reproduce import load_config

    config = load_config(folder_of(model))
    if config.model.hub_id is not None:
        raise ConfigError("--model", model, f"is of the hub's {config.model.hub_id}; give a folder")
    return Reader(
        tokenizer=config.model.path,
        mask_prompt=config.train.mask_prompt,
        max_seq_length=typed.max_seq_length or config.train.max_seq_length,
        run=config,
    )
