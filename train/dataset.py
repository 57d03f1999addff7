"""What training reads of a data set made of shards: the class table, and the shards that are finished.

A data set is a folder with `dataset.json` and, for each shard, `NNNNNN.tar` (WebDataset: `KEY.jpg`, `KEY.json`),
`NNNNNN.idx` (DALI's index of it) and `NNNNNN.json` (written last: a tar without it is not part of the data set).
"""

from dataclasses import dataclass
from pathlib import Path

from synthclone.engines.files import read_json


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One finished shard."""

    tar: Path
    idx: Path
    count: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set: its classes in the order of their labels, and its finished shards in the order of their names."""

    path: Path
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]

    @property
    def num_images(self) -> int:
        return sum(shard.count for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where the data of one file lies in a tar."""

    name: str
    offset_bytes: int
    size_bytes: int


def read_dataset(path: Path) -> Dataset:
    """Read a data set's manifests, not its images.

    Raises:
        ValueError: no `dataset.json`, no finished shard, a missing file, or a tar shorter than its index says.
    """
    manifest = path / "dataset.json"
    if not manifest.is_file():
        raise ValueError(f"{path} has no dataset.json, so it is no data set; make one with `synthclone generate`")
    classes = tuple(str(row["key"]) for row in read_json(manifest).get("classes", ()))
    if not classes:
        raise ValueError(f"{manifest} lists no classes; make the data set again with `synthclone generate`")
    markers = sorted(path.glob("[0-9]" * 6 + ".json"))
    if not markers:
        raise ValueError(
            f"{path} has no finished shard (NNNNNN.tar with its NNNNNN.json); run `synthclone generate` to the end"
        )
    return Dataset(path=path, classes=classes, shards=tuple(read_shard(marker) for marker in markers))


def read_shard(marker: Path) -> Shard:
    """One shard from its done marker; the tar must be as long as the index says."""
    row = read_json(marker)
    shard = Shard(
        tar=marker.with_suffix(".tar"),
        idx=marker.with_suffix(".idx"),
        count=int(row["count"]),
        sha256=str(row["sha256"]),
    )
    mend = f"delete {marker.with_suffix('.*')} and run `synthclone generate` again"
    for file in (shard.tar, shard.idx):
        if not file.is_file():
            raise ValueError(f"{file} is missing though {marker.name} says that the shard is finished; {mend}")
    samples = read_index(shard.idx)
    if len(samples) != shard.count:
        raise ValueError(f"{shard.idx} lists {len(samples)} samples, {marker.name} says {shard.count}; {mend}")
    end_bytes = max((m.offset_bytes + m.size_bytes for sample in samples for m in sample.values()), default=0)
    size_bytes = shard.tar.stat().st_size
    if size_bytes < end_bytes:
        raise ValueError(f"{shard.tar} is truncated: {size_bytes} bytes of at least {end_bytes}; {mend}")
    return shard


def read_index(idx: Path) -> list[dict[str, Member]]:
    """DALI's index, version 1.2: for each sample, its members by extension.

    Raises:
        ValueError: the file is no such index.
    """
    try:
        first, *lines = idx.read_text(encoding="utf-8").splitlines()
        version, count = first.split()
        samples = [parse_index_line(line) for line in lines]
        if version != "v1.2" or int(count) != len(samples):
            raise ValueError(f"its first line is {first!r} and {len(samples)} samples follow")
    except ValueError as error:
        raise ValueError(f"{idx} is no DALI index v1.2 ({error}); delete the shard and generate it again") from error
    return samples


def parse_index_line(line: str) -> dict[str, Member]:
    """One line of an index: `ext offset size name` for each member."""
    words = line.split()
    return {
        ext: Member(name=name, offset_bytes=int(offset), size_bytes=int(size))
        for ext, offset, size, name in zip(words[::4], words[1::4], words[2::4], words[3::4], strict=True)
    }


def format_index(samples: list[dict[str, Member]]) -> str:
    """The text of an index, the inverse of `read_index`."""
    rows = [
        " ".join(f"{ext} {m.offset_bytes} {m.size_bytes} {m.name}" for ext, m in sample.items()) for sample in samples
    ]
    return "\n".join([f"v1.2 {len(rows)}", *rows]) + "\n"
