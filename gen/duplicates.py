"""Images of equal digests among tens of millions, in little memory: an external hash join on disk.

Rows of (digest, shard, position) go to 256 files by the digest's first byte; each file is then sorted by itself. The keys
of the images go to one more file, so that what is found can be named without reading a shard again. 65 million images are
1.6 GB of rows and 0.8 GB of keys in the temporary folder, and 6 MB of memory a file.
"""

import json
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("shard", "<u4"), ("position", "<u4")])


class Duplicates:
    """Collects digests; the temporary files are gone when its block ends."""

    def __enter__(self) -> "Duplicates":
        self._open = ExitStack()
        self._folder = tempfile.TemporaryDirectory(prefix="synthclone-digests-")
        paths = [Path(self._folder.name, f"{byte:02x}") for byte in range(256)]
        self._files = [self._open.enter_context(path.open("w+b")) for path in paths]
        self._keys = self._open.enter_context(Path(self._folder.name, "keys").open("w+b"))
        self._keys_at: dict[int, tuple[int, int]] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._folder.cleanup()

    def add(self, shard: int, digests: Sequence[bytes], keys: Sequence[str]) -> None:
        """Take in a shard's digests of 16 bytes, in order, and its images' keys; an empty digest is passed over."""
        places = [position for position, digest in enumerate(digests) if digest]
        rows_N = np.zeros(len(places), dtype=ROW)
        halves_N2 = np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)
        rows_N["high"], rows_N["low"] = halves_N2[:, 0], halves_N2[:, 1]
        rows_N["shard"], rows_N["position"] = shard, places
        for byte in np.unique(rows_N["high"] & 255):
            self._files[int(byte)].write(rows_N[(rows_N["high"] & 255) == byte].tobytes())
        text = json.dumps(keys).encode()
        self._keys_at[shard] = self._keys.seek(0, 2), len(text)
        self._keys.write(text)

    def drop(self, shards: Collection[int]) -> None:
        """Forget shards, which can then be added anew."""
        for file in self._files:
            rows_N = _rows(file)
            file.seek(0)
            file.truncate()
            file.write(rows_N[~np.isin(rows_N["shard"], list(shards))].tobytes())

    def find(self) -> Iterator[np.ndarray]:
        """The groups of two or more equal digests: their rows, in the order of the places."""
        for file in self._files:
            rows_N = _rows(file)
            rows_N = rows_N[np.lexsort((rows_N["position"], rows_N["shard"], rows_N["low"], rows_N["high"]))]
            differs_N = (rows_N["high"][1:] != rows_N["high"][:-1]) | (rows_N["low"][1:] != rows_N["low"][:-1])
            borders = np.concatenate(([0], np.flatnonzero(differs_N) + 1, [len(rows_N)]))
            for group in np.flatnonzero(np.diff(borders) > 1):
                yield rows_N[borders[group] : borders[group + 1]]

    def place(self, row: np.void) -> tuple[int, str]:
        """Shard and key of a row's image."""
        start, length = self._keys_at[int(row["shard"])]
        self._keys.seek(start)
        return int(row["shard"]), json.loads(self._keys.read(length))[int(row["position"])]


def _rows(file: BinaryIO) -> np.ndarray:
    file.flush()
    return np.fromfile(file.name, dtype=ROW)
