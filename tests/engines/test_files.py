"""Atomic files: all there or not there, also when the disk is full."""

import errno
import os

import pytest

from synthclone.engines import files


def test_round_trip(tmp_path):
    files.write_json(tmp_path / "deep" / "a.json", {"é": [1, 2]})
    assert files.read_json(tmp_path / "deep" / "a.json") == {"é": [1, 2]}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_full_disk_leaves_the_old_file_and_names_the_mend(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device; free some space.*a\.bin"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "is damaged"), (b"\xff", "is damaged"), (None, "does not exist")]
)
def test_unreadable_json(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        files.read_json(tmp_path / "a.json")
