"""Where data sets lie: a local folder, or an object store behind fsspec (s3://, gs://, hf://, memory://).

A file is all there or not there: locally it is written beside its place and renamed, in an object store an upload only
appears when it is complete. What a store refuses for a moment is tried again (`retry.py`). File systems are looked up
again for each call, from fsspec's own cache, because those of a parent process do not work after a fork.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from synthclone.engines import files
from synthclone.gen import retry

T = TypeVar("T")

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf"}
"""Protocol: extra of this package that installs it."""
OPTIONS: dict[str, dict[str, Any]] = {
    # Each part of an upload is tried thrice by botocore, whole operations by `retry.py`: not five times five times.
    protocol: {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 3}}}
    for protocol in ("s3", "s3a")
}
STALE_S = 24 * 3600
"""Age of a temporary file that nobody can still be writing."""


@dataclass(frozen=True)
class Storage:
    """A folder and the file system that it is on."""

    url: str
    """As the user wrote it, without a final slash."""
    root: str
    """The folder's path within the file system."""

    @property
    def system(self) -> fsspec.AbstractFileSystem:
        """The file system, as this process must open it."""
        return _open(self.url)[0]

    @property
    def local(self) -> Path | None:
        """The folder, if it is on this machine's own file system."""
        return Path(self.root) if isinstance(self.system, LocalFileSystem) else None

    def path(self, name: str) -> str:
        """A file's path within the file system."""
        return f"{self.root}/{name}"

    def sizes(self) -> dict[str, int]:
        """Name and bytes of every file directly in the folder, by one listing; empty if there is no such folder.

        Raises:
            ValueError: there is no such bucket, or no credentials for it.
        """
        try:
            entries = self._do("list", "", lambda: self.system.ls(self.root, detail=True, refresh=True))
        except FileNotFoundError:
            return {}
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries if entry["type"] == "file"}

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            FileNotFoundError: there is no such file.
        """
        data: bytes = self._do("read", name, lambda: self.system.cat_file(self.path(name)))
        return data

    def read_json(self, name: str) -> Any:
        """A file's JSON.

        Raises:
            ValueError: the file is missing or no JSON.
        """
        try:
            return json.loads(self.read(name))
        except FileNotFoundError as error:
            raise ValueError(f"{self.url}/{name} does not exist") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.url}/{name} is damaged ({error}); delete it and run again the command that made it"
            ) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            OSError: the disk is full, or the store refuses.
        """
        folder = self.local
        if folder is not None:
            files.write_bytes(folder / name, data)
        else:
            try:
                self._do("write", name, lambda: self.system.pipe_file(self.path(name), data))
            except FileNotFoundError as error:  # object stores have no folders that could be missing
                raise ValueError(f"cannot write {self.url}/{name}: {retry.NO_BUCKET}") from error

    def create(self, name: str, data: bytes) -> None:
        """Write a file unless there is one of the name; that one then stays, also if it appears at this very moment.

        Where an object store cannot decide between two writers at once, the later one wins: read the file again.
        """
        folder = self.local
        try:
            if folder is not None:
                files.create_bytes(folder / name, data)
            else:
                self._do("write", name, lambda: self.system.pipe_file(self.path(name), data, mode="create"))
        except FileExistsError:
            return
        except FileNotFoundError as error:
            raise ValueError(f"cannot write {self.url}/{name}: {retry.NO_BUCKET}") from error

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write JSON, indented, with a final newline."""
        self.write(name, as_json(value))

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is no error, for an answer can be lost after the deed."""
        try:
            self._do("remove", name, lambda: self.system.rm_file(self.path(name)))
        except FileNotFoundError:
            return

    def download(self, name: str, path: Path, sha256: str) -> None:
        """Copy a file to a local path, where it appears only when its digest is right.

        Raises:
            ValueError: its bytes are others, twice.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = files.part_path(path)
        try:
            for _ in range(2):
                self._do("read", name, lambda: self.system.get_file(self.path(name), str(part)))
                with part.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found == sha256:
                    part.replace(path)
                    return
            raise ValueError(
                f"{self.url}/{name} has sha256 {found} instead of {sha256}; `synthclone verify {self.url}` tells more"
            )
        finally:
            part.unlink(missing_ok=True)

    def _do(self, verb: str, name: str, action: Callable[[], T]) -> T:
        what = f"{self.url}/{name}".rstrip("/")
        return action() if self.local is not None else retry.persist(action, f"{verb} {what}")


def as_json(value: Mapping[str, Any]) -> bytes:
    """JSON, indented, with a final newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def at(location: str | Path) -> Storage:
    """The storage of a path or URL.

    Raises:
        ValueError: unknown protocol, or its package is not installed.
    """
    url = str(location).rstrip("/") or "/"
    return Storage(url=url, root=_open(url)[1].rstrip("/"))


def _open(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    protocol = fsspec.utils.get_protocol(url)
    try:
        system, root = fsspec.core.url_to_fs(url, **OPTIONS.get(protocol, {}))
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        mend = f"; pip install 'synthclone[{extra}]'" if extra else ""
        raise ValueError(f"cannot open {url}: {error}{mend}") from error
    except ValueError as error:
        raise ValueError(f"cannot open {url}: {error}; give a folder, or a URL of s3://, gs:// or hf://") from error
    return system, root


def sweep(target: Storage) -> None:
    """Delete temporary files that nobody is writing any more: of dead processes of this host, or older than a day.

    Object stores show none: an upload that was broken off is kept apart until the bucket's own lifecycle rule ends it.
    """
    folder = target.local
    for part in folder.glob(".*.part") if folder else ():
        try:
            if _is_stale(part):
                part.unlink()
        except FileNotFoundError:
            continue  # its writer has just renamed it


def _is_stale(part: Path) -> bool:
    if time.time() - part.stat().st_mtime > STALE_S:
        return True
    named = re.fullmatch(r".*\.(\w+)-(\d+)-\d+\.part", part.name)
    if named is None or named[1] != files.host():
        return False
    try:
        os.kill(int(named[2]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # it lives, as another user's
    return False
