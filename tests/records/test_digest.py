"""The checksum of files: SHA-256 in hex, as in every manifest and event written so far."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.config.units import MB
from lab.records import digest
from lab.records.digest import kept_sha256, sha256_of_file

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


# --- Kept for large files -----------------------------------------------------------------------


def test_a_large_file_is_hashed_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, cache, told = tmp_path / "model.safetensors", tmp_path / "cache", []
    file.write_bytes(bytes(3 * MB))
    status = file.stat()
    monkeypatch.setattr(digest, "PROGRESS_SECONDS", -1.0)
    first = kept_sha256(cache, told.append, file)
    assert first == sha256_of_file(file)
    assert told[-1] == "hashing model.safetensors, once: 0.0 of 0.0 GB"
    told.clear()
    assert kept_sha256(cache, told.append, file) == first
    assert not told  # it was not read again
    with file.open("r+b") as changed:
        changed.seek(MB + 5)
        changed.write(b"\1")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as an unpacker puts it back
    assert kept_sha256(cache, told.append, file) == sha256_of_file(file) != first


@pytest.mark.parametrize("harm", [b"", b"not a digest", b"\xff" * 64])
def test_a_damaged_digest_is_made_again(tmp_path: Path, harm: bytes) -> None:
    file, cache = tmp_path / "model.safetensors", tmp_path / "cache"
    file.write_bytes(bytes(2 * MB))
    first = kept_sha256(cache, print, file)
    [kept] = (cache / "digests").iterdir()
    kept.write_bytes(harm)
    assert kept_sha256(cache, print, file) == first
    assert kept.read_text() == first


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(2 * MB))
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert kept_sha256(tmp_path / "cache", print, file) == sha256_of_file(file)
