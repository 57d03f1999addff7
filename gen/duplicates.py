"""Images of equal digests among tens of millions, in little memory: an external hash join on disk.

Rows of (digest, shard, position) go to 256 files by the digest's first byte; each file is then sorted by itself. 65
million images are 1.6 GB in the temporary folder and 6 MB of memory a file.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("shard", "<u4"), ("position", "<u4")])
Place = tuple[int, int]
"""Shard, and position in it."""


class Duplicates:
    """Collects digests; the temporary files are gone when its block ends."""

    def __enter__(self) -> "Duplicates":
        self._open = ExitStack()
        self._folder = tempfile.TemporaryDirectory(prefix="synthclone-digests-")
        paths = [Path(self._folder.name, f"{byte:02x}") for byte in range(256)]
        self._files = [self._open.enter_context(path.open("wb")) for path in paths]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._folder.cleanup()

    def add(self, shard: int, digests: Sequence[bytes]) -> None:
        """Take in a shard's digests of 16 bytes, in order; an empty one is passed over."""
        places = [position for position, digest in enumerate(digests) if digest]
        rows_N = np.zeros(len(places), dtype=ROW)
        halves_N2 = np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)
        rows_N["high"], rows_N["low"] = halves_N2[:, 0], halves_N2[:, 1]
        rows_N["shard"], rows_N["position"] = shard, places
        for byte in np.unique(rows_N["high"] & 255):
            self._files[int(byte)].write(rows_N[(rows_N["high"] & 255) == byte].tobytes())

    def find(self) -> Iterator[tuple[Place, Place]]:
        """Every later place with the first place of the same digest."""
        for file in self._files:
            file.flush()
            rows_N = np.fromfile(file.name, dtype=ROW)
            rows_N = rows_N[np.lexsort((rows_N["position"], rows_N["shard"], rows_N["low"], rows_N["high"]))]
            equal_N = (rows_N["high"][1:] == rows_N["high"][:-1]) & (rows_N["low"][1:] == rows_N["low"][:-1])
            for i in np.flatnonzero(equal_N):
                first = i
                while first > 0 and equal_N[first - 1]:
                    first -= 1
                yield _place(rows_N[i + 1]), _place(rows_N[first])


def _place(row: np.void) -> Place:
    return int(row["shard"]), int(row["position"])
