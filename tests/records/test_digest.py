"""The checksum of files: SHA-256 in hex, as in every manifest and event written so far."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.records.digest import sha256_of_file

KNOWN = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
}


@pytest.mark.parametrize("content", KNOWN)
def test_it_is_sha256_in_hex(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert sha256_of_file(file) == KNOWN[content]


def test_a_file_that_cannot_be_read_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sha256_of_file(tmp_path / "missing")
