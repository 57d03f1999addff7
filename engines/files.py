"""Files that are all there or not there: written beside their place, flushed, renamed; and their checksums."""

import hashlib
import itertools
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_numbers = itertools.count()


def host() -> str:
    """This machine's name, of letters, digits and underscores."""
    return re.sub(r"\W", "_", socket.gethostname(), flags=re.ASCII) or "host"


def part_path(path: Path) -> Path:
    """Where to write a file before it is renamed: a name that no other host, process or thread writes to."""
    return path.with_name(f".{path.name}.{host()}-{os.getpid()}-{next(_numbers)}.part")


@contextmanager
def atomic(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` only when the block ends without an error.

    Raises:
        FileExistsError: without `replace`, there is such a file.
        OSError: the disk is full or the folder is not writable; the message names the file and nothing is left behind.
    """
    part = part_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            _move_to_free(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(
                error.errno, f"cannot write: {error.strerror}; free some space, and run again to go on", str(path)
            ) from error
        raise


def _move_to_free(part: Path, path: Path) -> None:
    """Rename, unless there is a file of that name, even since a moment ago."""
    try:
        path.hardlink_to(part)  # which, unlike a rename, refuses
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: two at the same moment are not told apart
        if path.exists():
            raise FileExistsError(path) from None
        part.replace(path)
    else:
        part.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as file:
        file.write(data)


def create_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; FileExistsError if there is one, also if two do so at once."""
    with atomic(path, replace=False) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, with a final newline."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: the file is missing or no JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again the command that made it") from error


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
