"""Write files in place of this lab's own earlier ones: whole or not at all, and nobody else's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lab.config.schema import ConfigError

MARK = "made by mlx-memory-lab"  # in a page's or a picture's metadata
MARKED_WITHIN = 1024  # bytes from its beginning


def is_marked(path: Path) -> bool:
    """Whether a file says in its first bytes that this lab made it; no where it can't be read."""
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(MARKED_WITHIN)
    except OSError:
        return False


def check_replaceable(path: Path, is_own: Callable[[Path], bool] = is_marked) -> None:
    """Check that nothing is in a file's place, or an earlier one of this lab's making.

    Raises:
        ConfigError: something else is.
    """
    if os.path.lexists(path) and not (path.is_file() and is_own(path)):
        raise ConfigError(
            "folder", path.parent, f"holds a {path.name} that this lab did not make; move it away"
        )


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder to write files in; at the end they go into ``folder``, each by a rename.

    If an exception ends it, nothing is left behind.

    Raises:
        OSError: they cannot be written.
    """
    with TemporaryDirectory(prefix=".new-", dir=folder) as temporary:
        yield Path(temporary)
        for file in sorted(Path(temporary).iterdir()):
            file.replace(folder / file.name)
