"""Shards: written all or not at all, and read back.

    NNNNNN.tar    WebDataset form: KEY.jpg, KEY.json, KEY.jpg, ...
    NNNNNN.idx    DALI's index of it, format v1.2
    NNNNNN.json   how many samples, the tar's sha256 and size, what made it; written last: without it there is no shard
    dataset.json  the data set's own manifest: classes in label order, counts, resolved configuration

Any images can be written this way; the quickstart writes real digits with it too.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthclone.engines import files

FORMAT = 1
MANIFEST = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with what is known about it."""

    key: str
    """Name within the shard, without a dot."""
    jpeg: bytes
    fields: Mapping[str, Any]
    """At least `label` (int) and `class` (key)."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A finished shard on disk."""

    tar: Path
    index: Path
    count: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set on disk: its manifest and its finished shards."""

    folder: Path
    manifest: Mapping[str, Any]
    shards: tuple[Shard, ...]

    @property
    def class_keys(self) -> list[str]:
        """Keys in label order."""
        return [entry["key"] for entry in self.manifest["classes"]]

    @property
    def num_images(self) -> int:
        """Images in finished shards."""
        return sum(shard.count for shard in self.shards)


def write_shard(folder: Path, number: int, samples: Iterable[Sample], provenance: Mapping[str, Any]) -> None:
    """Write a shard; the same samples give the same bytes.

    Raises:
        OSError: the disk is full; no half shard is left behind.
    """
    buffer, lines = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            parts = {"jpg": sample.jpeg, "json": json.dumps(dict(sample.fields), ensure_ascii=False).encode()}
            entries = []
            for extension, data in parts.items():
                member = tarfile.TarInfo(f"{sample.key}.{extension}")
                member.size = len(data)
                offset = buffer.tell() + tarfile.BLOCKSIZE
                tar.addfile(member, io.BytesIO(data))
                entries.append(f"{extension} {offset} {len(data)} {member.name}")
            lines.append(" ".join(entries))
    data = buffer.getvalue()
    stem = folder / f"{number:06d}"
    files.write_bytes(stem.with_suffix(".tar"), data)
    files.write_bytes(stem.with_suffix(".idx"), "\n".join([f"v1.2 {len(lines)}", *lines, ""]).encode())
    marker = {"count": len(lines), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **provenance}
    files.write_json(stem.with_suffix(".json"), marker)


def is_done(folder: Path, number: int) -> bool:
    """Whether a shard is finished: its marker is there, and its tar has the recorded size."""
    stem = folder / f"{number:06d}"
    if not stem.with_suffix(".json").is_file():
        return False
    tar, size = stem.with_suffix(".tar"), files.read_json(stem.with_suffix(".json"))["bytes"]
    return tar.is_file() and tar.stat().st_size == size and stem.with_suffix(".idx").is_file()


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `dataset.json`."""
    files.write_json(folder / MANIFEST, {"format": FORMAT, **manifest})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of `dataset.json`.

    Raises:
        ValueError: there is none, or it is damaged or of another format.
    """
    if not (folder / MANIFEST).is_file():
        raise ValueError(
            f"{folder} is no data set: it has no {MANIFEST}; make one with `synthclone generate --output {folder}`"
        )
    manifest: dict[str, Any] = files.read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{folder / MANIFEST} has format {manifest.get('format')}; this version reads {FORMAT}")
    return manifest


def read_dataset(folder: Path) -> Dataset:
    """The manifest and the finished shards of a data set; shards without a marker do not count.

    Raises:
        ValueError: no data set there, no finished shard, or a shard whose files do not fit its marker.
    """
    manifest, shards = read_manifest(folder), []
    for marker_path in sorted(folder.glob("[0-9][0-9][0-9][0-9][0-9][0-9].json")):
        marker = files.read_json(marker_path)
        tar, index = marker_path.with_suffix(".tar"), marker_path.with_suffix(".idx")
        size = tar.stat().st_size if tar.is_file() else 0
        if size != marker["bytes"] or not index.is_file():
            raise ValueError(
                f"{tar} has {size} bytes instead of {marker['bytes']}, or lacks its .idx; "
                "run the command that made the data set again to repair it"
            )
        shards.append(Shard(tar=tar, index=index, count=marker["count"], sha256=marker["sha256"]))
    if not shards:
        raise ValueError(f"{folder} has no finished shard; run the command that made it again to go on")
    return Dataset(folder=folder, manifest=manifest, shards=tuple(shards))
