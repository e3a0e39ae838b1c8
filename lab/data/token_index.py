"""The token index: what every sample becomes as tokens, made once for data, tokenizer and template.

A child process makes it (``python -m lab.data.token_index``): tokenising a whole file grows the
heap, which must not be the training process's. Samples that cannot be tokenised are found here, not
at the step that draws them.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lab.config.schema import ConfigError
from lab.config.units import MB
from lab.data import columns
from lab.data.index import JsonLinesReader, Progress
from lab.data.split import Samples, Split
from lab.data.tokenizer import load_tokenizer
from lab.data.tokenizer_files import tokenizer_fingerprint, tokenizers_version
from lab.machine.interpreter import environment_with_lab
from lab.records.digest import kept_sha256

TOKEN_INDEX_VERSION = 1
WHOLE_BYTES = 20 * MB  # of larger files only SAMPLED samples are tokenised beforehand
SAMPLED = 2000
PROGRESS_SECONDS = 1.0
_TYPES = {"lengths": "i", "prompts": "i", "highest": "i"}  # type codes of array.array


@dataclass(frozen=True)
class TokenIndex:
    """One row for each tokenised sample, before it is cut to ``train.max_seq_length``.

    Attributes:
        rows: which rows of the sample index these are; evenly spread where not all. The sample
            index is ordered by hash, so they are drawn at random from the file.
        samples: how many samples the file has.
        lengths: int32 (n,), token ids of each sample.
        prompts: int32 (n,), how many of the first are a prompt that does not count in the loss.
        highest: int32 (n,), the largest token id.
    """

    rows: range
    samples: int
    lengths: columns.Column
    prompts: columns.Column
    highest: columns.Column

    @property
    def is_whole(self) -> bool:
        return len(self.rows) == self.samples

    def within(self, rows: range) -> Iterator[int]:
        """Positions in the columns of those samples whose row of the sample index is in ``rows``.

        Arguments:
            rows: a split, without a step.
        """
        return (position for position, row in enumerate(self.rows) if row in rows)


def open_token_index(
    lines: JsonLinesReader,
    tokenizer_folder: Path | None,
    *,
    mask_prompt: bool,
    cache_dir: Path,
    progress: Progress,
) -> TokenIndex:
    """The token index of one file, from the cache where it is there.

    Arguments:
        tokenizer_folder: of the model; None for bytes.
        progress: called about once a second while it is made.

    Raises:
        ConfigError: a sample cannot be tokenised; names file and line.
    """
    files = tokenizer_fingerprint(tokenizer_folder, partial(kept_sha256, cache_dir, progress))
    known = (
        f"{lines.index.fingerprint}|{files}|{tokenizers_version()}|{mask_prompt}|"
        f"{TOKEN_INDEX_VERSION}|{WHOLE_BYTES}"
    )
    path = cache_dir / "tokens" / hashlib.sha256(known.encode()).hexdigest()[:24]
    if (index := load(path)) is not None:
        return index
    with tempfile.TemporaryDirectory() as elsewhere:
        if not _is_writable(path.parent):
            path = Path(elsewhere, path.name)  # the next worker makes it again
        _make(lines, cache_dir, tokenizer_folder, path, progress, mask_prompt=mask_prompt)
        index = load(path)
    if index is None:
        raise ConfigError(lines.key, str(lines.path), "its token index cannot be read back")
    return index


def _is_writable(folder: Path) -> bool:
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    return False


def load(path: Path) -> TokenIndex | None:
    """A cached token index; ``None`` where it is missing, damaged or of another version."""
    found = columns.load(path, _TYPES)
    if found is None:
        return None
    header, arrays = found
    version, samples, step = (header.get(key) for key in ("version", "samples", "step"))
    if version != TOKEN_INDEX_VERSION or type(samples) is not int or type(step) is not int:
        return None
    return TokenIndex(range(0, samples, max(step, 1)), samples, **arrays)


# --- The child ----------------------------------------------------------------------------------


def _make(
    lines: JsonLinesReader,
    cache_dir: Path,
    tokenizer_folder: Path | None,
    out: Path,
    progress: Progress,
    *,
    mask_prompt: bool,
) -> None:
    order = {
        "file": str(lines.path),
        "key": lines.key,
        "cache_dir": str(cache_dir),
        "tokenizer_folder": str(tokenizer_folder) if tokenizer_folder else None,
        "mask_prompt": mask_prompt,
        "out": str(out),
    }
    command = [sys.executable, "-P", "-m", "lab.data.token_index", json.dumps(order)]
    # In the worker's process group, so what kills the worker ends it too. Its complaints go into a
    # file: a pipe that is read only at the end would hold up one that complains much.
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment_with_lab(),
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                record = json.loads(line)
                if "error" in record:
                    raise ConfigError(*record["error"])
                progress(record["progress"])
        except BaseException:
            child.kill()
            raise
        child.wait()
        complaints.seek(0)
        complaint = complaints.read().decode("utf-8", "replace").strip().splitlines()
    if child.returncode:
        reason = (complaint or [f"exit code {child.returncode}"])[-1]
        raise ConfigError(lines.key, str(lines.path), f"cannot be tokenised: {reason}"[:500])


def main(order: dict[str, Any]) -> int:
    """Tokenise a file's samples; print progress, or the error that ended it, a JSON object a line.

    Arguments:
        order: as :func:`_make` wrote it.
    """
    try:
        lines = JsonLinesReader(Path(order["file"]), Path(order["cache_dir"]), order["key"])
        folder = order["tokenizer_folder"]
        index = _tokenised(lines, folder and Path(folder), mask_prompt=order["mask_prompt"])
    except ConfigError as error:
        print(json.dumps({"error": [error.key, error.plain_value, error.allowed]}), flush=True)
        return 0
    header = {
        "version": TOKEN_INDEX_VERSION,
        "samples": index.samples,
        "step": index.rows.step,
    }
    columns.save(Path(order["out"]), header, {name: getattr(index, name) for name in _TYPES})
    return 0


def _tokenised(lines: JsonLinesReader, folder: Path | None, *, mask_prompt: bool) -> TokenIndex:
    count, size = len(lines), lines.path.stat().st_size
    samples = Samples(Split(lines, range(count)), load_tokenizer(folder), mask_prompt)
    rows = range(0, count, 1 if size <= WHOLE_BYTES else max(count // SAMPLED, 1))
    lengths, prompts, highest = array("i"), array("i"), array("i")
    told = time.monotonic()
    for done, row in enumerate(rows):
        ids, prompt = samples.tokens(row)
        lengths.append(len(ids))
        prompts.append(prompt)
        highest.append(max(ids, default=0))
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            text = f"indexing the tokens of {lines.path.name}: {done:,} of {len(rows):,} samples"
            print(json.dumps({"progress": text}), flush=True)
    return TokenIndex(rows, count, *map(memoryview, (lengths, prompts, highest)))


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
