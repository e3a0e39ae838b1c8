"""Extract the standard library's docstrings as prompt/completion samples.

Run as a child process (``python stdlib_docs.py FOLDER``, standard library only): parsing a thousand
modules grows the heap, which must not happen in the training process.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import sys
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

CACHE_VERSION = 1
QUESTION = "\n# Write the docstring.\n"

_SKIPPED = {
    "test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo",
    "__pycache__", "_bundled", "pydoc_data", "encodings",
}  # fmt: skip
_SOURCE = range(80, 2000)  # accepted characters of source
_LONGEST_SOURCE = 500  # characters of it that go into the prompt
_ANSWER = range(40, 600)  # accepted characters of docstring: neither one word nor a chapter
_Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def samples(library: Path) -> Iterator[dict[str, str]]:
    """One sample for each documented function, method and class below a folder, in a fixed order.

    Yields:
        ``{"prompt", "completion"}``: the source without its docstring followed by ``QUESTION``, and
        the docstring.
    """
    for folder, below, files in os.walk(library):
        below[:] = sorted(set(below) - _SKIPPED)
        for name in sorted(files):
            if name.endswith(".py"):
                yield from _samples_of(Path(folder, name))


def _samples_of(path: Path) -> Iterator[dict[str, str]]:
    try:
        text = path.read_text("utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError):
        return
    lines = text.split("\n")
    for node in _statements(tree):
        if isinstance(node, _Documented) and (sample := _sample(node, lines)):
            yield sample


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Statements at any depth; ``ast.walk`` also visits expressions and takes twice the time."""
    for block in ("body", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            yield child
            yield from _statements(child)


def _sample(node: _Documented, lines: list[str]) -> dict[str, str] | None:
    first = node.body[0]
    if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
        return None
    if not isinstance(first.value.value, str) or first.lineno == node.lineno:
        return None
    answer = inspect.cleandoc(first.value.value)
    code = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
    source = textwrap.dedent("\n".join(code)).strip()
    if len(answer) not in _ANSWER or len(source) not in _SOURCE:
        return None
    return {"prompt": _shortened(source) + QUESTION, "completion": answer}


def _shortened(source: str) -> str:
    """The leading whole lines that fit into ``_LONGEST_SOURCE`` characters."""
    if len(source) <= _LONGEST_SOURCE:
        return source
    return source[:_LONGEST_SOURCE].rpartition("\n")[0] + "\n    ..."


def main(folder: Path) -> str | None:
    """Write ``train.jsonl``; returns an error message, or ``None`` on success."""
    library = Path(sysconfig.get_path("stdlib"))
    with (folder / "train.jsonl").open("w", encoding="utf-8", errors="strict") as file:
        for sample in samples(library):
            file.write(json.dumps(sample, ensure_ascii=False) + "\n")
    if (folder / "train.jsonl").stat().st_size == 0:
        return f"this Python has no standard library source in {library}; use data=jsonl"
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
