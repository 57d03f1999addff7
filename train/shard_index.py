"""DALI's index of a shard (`NNNNNN.idx`, version 1.2): where each sample's files lie in the tar.

A run writes indices of its own where a sample is to be left out; the shards themselves are `gen/shards.py`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HEADER = "v1.2"


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where the data of one file lies in a tar."""

    name: str
    offset_bytes: int
    size_bytes: int


Sample = Mapping[str, Member]


def read_index(path: Path) -> list[Sample]:
    """The samples of an index, each with its members by extension.

    Raises:
        ValueError: the file is no such index.
    """
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        version, count = first.split()
        samples = [parse_line(line) for line in lines]
        if version != HEADER or int(count) != len(samples):
            raise ValueError(f"its first line is {first!r} and {len(samples)} samples follow")
    except ValueError as error:
        raise ValueError(
            f"{path} is no DALI index {HEADER} ({error}); delete the shard's .json and run again the command that made it"
        ) from error
    return samples


def parse_line(line: str) -> Sample:
    """One line of an index: `ext offset size name` for each member."""
    words = line.split()
    return {
        ext: Member(name=name, offset_bytes=int(offset), size_bytes=int(size))
        for ext, offset, size, name in zip(words[::4], words[1::4], words[2::4], words[3::4], strict=True)
    }


def format_index(samples: Sequence[Sample]) -> str:
    """The text of an index, the inverse of `read_index`."""
    rows = [
        " ".join(f"{ext} {m.offset_bytes} {m.size_bytes} {m.name}" for ext, m in sample.items()) for sample in samples
    ]
    return "\n".join([f"{HEADER} {len(rows)}", *rows, ""])
