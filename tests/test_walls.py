"""The walls between the rooms of ``lab/``: who may import what, and in which direction."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

# Files of lab/explain that work inside the worker; the others read and advise, without MLX.
EXPLAIN_INSIDE = ("census", "explainer", "finders", "graphs", "watch_calls")
# Rooms (or files) that may import a package anywhere, and files that may inside a function.
ANYWHERE = {
    "mlx": ("train", "faults", *(f"explain/{name}.py" for name in EXPLAIN_INSIDE)),
    "mlx_lm": ("train",),
    "hydra": ("compose", "sweep", "launch.py"),
    "omegaconf": ("compose", "sweep", "launch.py"),
    "wandb": ("tracking",),
    "wandb_workspaces": ("tracking",),
    "tensorboard": ("tracking",),
    "mlflow": ("tracking",),
    "matplotlib": ("plots", "compare", "whatif"),
    "plotly": ("compare", "plots"),
    "polars": ("compare", "plots"),
    "numpy": ("compare", "plots", "whatif"),
    "transformers": (),
    "torch": (),
}
INSIDE_A_FUNCTION = {
    "mlx": ("machine/probe.py",),
    "mlx_lm": ("data/tokenizer.py",),
    "numpy": ("train/mlx_lm_trainer.py",),
}


@dataclass(frozen=True)
class Import:
    """One imported module, as one line of one file has it.

    Attributes:
        file: path below ``lab/``.
        lazy: inside a function.
        typing: under ``if TYPE_CHECKING``, so never executed.
    """

    file: str
    line: int
    module: str
    lazy: bool
    typing: bool

    def __str__(self) -> str:
        return f"lab/{self.file}:{self.line} imports {self.module}"

    @property
    def room(self) -> str:
        return self.file.partition("/")[0]


def imports_of(source: str, file: str) -> Iterator[Import]:
    """Every import statement of one file, and every call of ``import_module`` on a literal."""

    def walk(node: ast.AST, *, lazy: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            only_types = typing or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            for module in _modules(child):
                yield Import(file, child.lineno, module, lazy, typing)  # type: ignore[attr-defined]
            yield from walk(child, lazy=inside, typing=only_types)

    yield from walk(ast.parse(source), lazy=False, typing=False)


def _modules(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names):
            return [f"{module}.{alias.name}" for alias in names]
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[first, *_]):
            is_import = called in ("import_module", "__import__")
            text = first.value if isinstance(first, ast.Constant) else None
            return [text] if is_import and isinstance(text, str) else []
    return []


def read(root: Path) -> list[Import]:
    """Every import below ``root``, a folder like ``lab/``."""
    return [
        found
        for path in sorted(root.rglob("*.py"))
        for found in imports_of(path.read_text("utf-8"), path.relative_to(root).as_posix())
    ]


def breaches(imports: list[Import]) -> list[str]:
    """Every import that goes through a wall, with its file and line."""
    return [f"{found}, which only {_who(found)} may" for found in imports if not _may(found)]


def _may(found: Import) -> bool:
    package = found.module.partition(".")[0]
    if package not in ANYWHERE or {found.room, found.file} & set(ANYWHERE[package]):
        return True
    return found.lazy and found.file in INSIDE_A_FUNCTION.get(package, ())


def _who(found: Import) -> str:
    package = found.module.partition(".")[0]
    lazily = [f"{file} inside a function" for file in INSIDE_A_FUNCTION.get(package, ())]
    return ", ".join([*ANYWHERE[package], *lazily]) or "nobody"


def circles(imports: list[Import], files: set[str]) -> list[str]:
    """A circle among files and one among rooms, where there is any, with the lines that close it.

    What is imported for types alone closes no circle of files.
    """
    problems = []
    by_file: dict[str, set[str]] = {}
    by_room: dict[str, set[str]] = {}
    where: dict[tuple[str, str], Import] = {}
    for found in imports:
        target = _file_of(found.module, files)
        if target is None or target == found.file:
            continue
        if not found.typing:
            by_file.setdefault(found.file, set()).add(target)
            where.setdefault((found.file, target), found)
        rooms = found.room, target.partition("/")[0]
        if rooms[0] != rooms[1]:
            by_room.setdefault(rooms[0], set()).add(rooms[1])
            where.setdefault(rooms, found)
    for graph in (by_file, by_room):
        if circle := _circle(graph):
            steps = zip(circle[1:], circle[:-1], strict=True)
            problems.append("circle: " + "; ".join(str(where[step]) for step in steps))
    return problems


def _file_of(module: str, files: set[str]) -> str | None:
    """The file below ``lab/`` that ``import module`` reads, or ``from a import b`` as ``a.b``."""
    if module.partition(".")[0] != "lab":
        return None
    parts = module.split(".")[1:]
    for end in (len(parts), len(parts) - 1):
        for name in ("/".join(parts[:end]) + ".py", "/".join([*parts[:end], "__init__.py"])):
            if name in files:
                return name
    return None


def _circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


# --- The tree as it is --------------------------------------------------------------------------


def test_no_import_goes_through_a_wall(repo: Path) -> None:
    assert breaches(read(repo / "lab")) == []


def test_rooms_and_files_import_one_way(repo: Path) -> None:
    root = repo / "lab"
    files = {path.relative_to(root).as_posix() for path in root.rglob("*.py")}
    assert circles(read(root), files) == []


def test_every_package_starts_empty_or_lazily(repo: Path) -> None:
    """A worker imports ``lab.train``: what its ``__init__`` imported, every start would pay for."""
    for path in (repo / "lab").rglob("__init__.py"):
        assert [str(i) for i in imports_of(path.read_text("utf-8"), path.name) if not i.lazy] == []


# --- Planted breaches ---------------------------------------------------------------------------

PLANTED = [
    ("supervise/budget.py", "import mlx.core as mx", "lab/supervise/budget.py:2 imports mlx"),
    ("records/rows.py", "from mlx_lm import utils", "only train, data/tokenizer.py"),
    ("machine/probe.py", "import mlx.core", "machine/probe.py inside a function may"),
    ("train/loop.py", "def f():\n    import wandb", "train/loop.py:3 imports wandb"),
    (
        "supervise/budget.py",
        "from omegaconf import OmegaConf",
        "only compose, sweep, launch.py may",
    ),
    ("tracking/text.py", "from hydra.utils import get_class", "imports hydra.utils"),
    ("train/step.py", "import numpy as np", "only compare, plots, whatif, train/mlx_lm_trainer.py"),
    ("records/rows.py", "if TYPE_CHECKING:\n    import polars", "records/rows.py:3 imports polars"),
    ("train/step.py", "importlib.import_module('wandb.sdk')", "imports wandb.sdk"),
    ("data/tokenizer.py", "def f():\n    import transformers", "which only nobody may"),
]


@pytest.mark.parametrize(("file", "line", "said"), PLANTED)
def test_a_breach_is_named_by_its_line(file: str, line: str, said: str) -> None:
    [problem] = breaches(list(imports_of(f'"""A file."""\n{line}\n', file)))
    assert said in problem


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from lab.records.files import RunFiles", "from lab.records import rows"),
        ("def f():\n    from lab.records.files import RunFiles", "import lab.records.rows"),
    ],
)
def test_a_circle_of_files_is_named(first: str, second: str) -> None:
    sources = {"records/rows.py": first, "records/files.py": second}
    imports = [found for file, text in sources.items() for found in imports_of(text, file)]
    [problem] = circles(imports, set(sources))
    assert "lab/records/rows.py:" in problem
    assert "lab/records/files.py:" in problem


def test_a_circle_of_rooms_is_named() -> None:
    sources = {
        "records/rows.py": "from lab.tracking.text import number",
        "tracking/text.py": "",
        "tracking/view.py": "from lab.records.files import RunFiles",
        "records/files.py": "",
    }
    imports = [found for file, text in sources.items() for found in imports_of(text, file)]
    [problem] = circles(imports, set(sources))
    assert "lab/records/rows.py:1 imports lab.tracking.text.number" in problem
    assert "lab/tracking/view.py:1 imports lab.records.files.RunFiles" in problem


def test_what_is_imported_for_types_closes_no_circle_of_files() -> None:
    sources = {
        "records/rows.py": "if TYPE_CHECKING:\n    from lab.records.files import RunFiles",
        "records/files.py": "from lab.records import rows",
    }
    imports = [found for file, text in sources.items() for found in imports_of(text, file)]
    assert circles(imports, set(sources)) == []


# --- The map ------------------------------------------------------------------------------------


def test_the_map_names_every_room_and_only_files_that_exist(repo: Path) -> None:
    page = (repo / "docs" / "architecture.md").read_text("utf-8")
    rooms = {path.name for path in (repo / "lab").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE))
    named = re.findall(r"`([\w/]+\.py)`", page)
    assert [n for n in named if not any((repo / top / n).exists() for top in (".", "lab"))] == []


def test_the_maps_arrows_are_the_imports(repo: Path) -> None:
    """No room imports one that the map draws to its left."""
    page = (repo / "docs" / "architecture.md").read_text("utf-8")
    order = re.search(r"one way, from left to right:\n\n```\n(.*?)```", page, re.DOTALL)
    assert order is not None
    places = {
        room: number for number, group in enumerate(order[1].split("─▶")) for room in group.split()
    }
    for found in read(repo / "lab"):
        package, _, rest = found.module.partition(".")
        source, target = found.room.removesuffix(".py"), rest.partition(".")[0]
        if package == "lab" and source != target and target in places:
            assert places[source] < places[target], str(found)
