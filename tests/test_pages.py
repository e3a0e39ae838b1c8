"""What README and docs name is there: settings, options, files, links, the site."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lab.compose.profiles import CONF
from lab.config.keys import Config, Growth
from tests.conftest import ROOT
from tests.test_docs import DOCS, call, text_of

# --- Every setting in the guide -----------------------------------------------------------------


def leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, type and range of every setting.

    A mapping's own keys are called TIER, the growth modes, all of one type, MODE.
    """
    hints = get_type_hints(cls)
    for spec in fields(cls):
        hint = hints[spec.name]
        inner = next((h for h in (hint, *get_args(hint)) if is_dataclass(h)), None)
        key = f"{prefix}{'MODE' if inner is Growth else spec.name}"
        if inner is None:
            yield key, hint, spec.metadata
        else:
            yield from leaves(inner, f"{key}.TIER." if get_origin(hint) is dict else f"{key}.")


LEAVES = {key: (hint, limits) for key, hint, limits in leaves(Config) if key != "version"}


@pytest.fixture(scope="module")
def rows() -> dict[str, tuple[str, str, str]]:
    """The guide's tables of settings: meaning, range and default by key."""
    found = re.findall(
        r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$",
        text_of(ROOT / "docs" / "guide.md"),
        re.MULTILINE,
    )
    assert len(found) == len({key for key, *_ in found}), "a key has two rows"
    return {key: (meaning, allowed, default) for key, meaning, allowed, default in found}


def test_the_guide_has_exactly_the_settings_that_there_are(rows: dict) -> None:
    assert set(LEAVES) - set(rows) == set()
    assert set(rows) - set(LEAVES) == set()


@pytest.mark.parametrize("key", LEAVES)
def test_the_guide_says_a_settings_range(rows: dict, key: str) -> None:
    hint, limits = LEAVES[key]
    meaning, allowed, default = rows[key]
    signs = {"at_least": "≥", "above": ">", "at_most": "≤"}
    bounds = [f"{signs[k]} {limits[k]:.10g}" for k in signs if limits[k] is not None]
    wanted = [*bounds, *limits["choices"], limits["unit"], *limits["words"]]
    wanted += ["true, false"] if hint is bool else []
    assert [text for text in wanted if text not in allowed] == []
    assert not limits["auto"] or "`auto`" in meaning + default


def test_the_guide_says_the_defaults(rows: dict) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = OmegaConf.to_container(compose("config", ["fault=crash"]), resolve=False)
    wrong = {}
    for key, (_, _, default) in rows.items():
        value = composed
        for name in key.split("."):
            value = value.get(name, "${") if isinstance(value, dict) else value
        if key.startswith("hardware.") or (isinstance(value, str) and "${" in value):
            continue  # the machine's
        said = re.match("`([^`]*)`", default)
        if said is None or yaml.safe_load(said[1]) != value:
            wrong[key] = (default, value)
    assert wrong == {}


def test_the_guide_names_every_option_of_every_group() -> None:
    guide = text_of(ROOT / "docs" / "guide.md")
    missing = []
    for group in (folder for folder in CONF.iterdir() if folder.is_dir()):
        row = re.search(rf"^\| `{group.name}` \|.*$", guide, re.MULTILINE)
        options = sorted(path.stem for path in group.glob("*.yaml"))
        missing += [f"{group.name}={o}" for o in options if row is None or f"`{o}`" not in row[0]]
    assert missing == []


# --- What the pages name ------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) < 200
    assert len(text_of(ROOT / "docs" / "guide.md").splitlines()) < 300


def test_the_readmes_tree_is_the_folder_listing() -> None:
    readme = text_of(ROOT / "README.md")
    tree = re.search(r"^## The tree\n+```\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert tree is not None
    lines = tree[1].splitlines()
    assert all(re.match(r"(  )?[\w.]+/? {2,}\S|lab/$", line) for line in lines)
    named = [line.split()[0] for line in lines if not line.startswith(" ")]
    rooms = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(rooms) == listing("lab", besides=("__init__.py",))
    unnamed = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "outputs/")
    assert sorted(named) == listing(".", besides=(*unnamed, "pyproject.toml", "mkdocs.yml"))


def listing(folder: str, besides: Sequence[str]) -> list[str]:
    """What git holds right below a folder, folders with a slash; hidden names left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder]
    held = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    parts = [Path(line).relative_to(folder).parts for line in held.stdout.splitlines()]
    names = {first + "/" * bool(rest) for first, *rest in parts}
    return sorted(n for n in names if n not in besides and not n.startswith("."))


@pytest.mark.parametrize("page", [*DOCS, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    local = [t.partition("#")[0] for t in targets if not re.match("[a-z]+:", t)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_site_is_built_and_every_link_in_it_leads_somewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    call(sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", site, cwd=ROOT)
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {path.stem for path in site.glob("*.html")} == pages | {"404"}
    loaded = re.findall(r'(?:src|href)="(https?:[^"]+)"', text_of(site / "index.html"))
    assert [url for url in loaded if "squidfunk" not in url] == []  # but for the theme's own name
