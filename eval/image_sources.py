"""Images of a data set of shards (a folder or a URL) or of an ImageFolder, in pieces whose content is known by a key.

A piece is a shard, or a run of files of a folder. Its key changes with its content: a shard's is the sha256 in its marker, a
run's is made of names, sizes and times of change. What is computed from a piece (`feature_cache.py`) is kept under that key.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from synthclone.engines.files import sha256
from synthclone.eval.imagefolder import list_images
from synthclone.gen import shards, storage
from synthclone.train.shard_index import Member, read_index

FILES_PER_PIECE = 1024


@dataclass(frozen=True, kw_only=True)
class Item:
    """Where one encoded image lies, and what is known of it."""

    path: Path
    offset_bytes: int
    size_bytes: int
    name: str
    label: int
    prompt: str | None
    """What the image was generated from."""

    def read(self) -> bytes:
        """The encoded image."""
        return read_range(self.path, self.offset_bytes, self.size_bytes)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Images that are worked on and kept together."""

    key: str
    count: int
    items: Callable[[], list[Item]]
    """Lists the images; for a shard that reads their JSON, and copies it here first if it lies in an object store."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A set of labelled images."""

    location: str
    """Folder or URL."""
    classes: tuple[str, ...]
    """Class keys in label order."""
    pieces: tuple[Piece, ...]


def open_source(location: str) -> Source:
    """A data set of shards if there is a `dataset.json`, else an ImageFolder.

    Raises:
        ValueError: neither, no images, or a shard that is not whole.
    """
    where = storage.at(location)
    if where.local is None or shards.MANIFEST in where.sizes():
        return open_shards(location)
    return open_folder(where.local)


def open_shards(location: str) -> Source:
    """The finished shards of a data set."""
    dataset = shards.read_dataset(location)
    pieces = [
        Piece(key=shard.sha256, count=shard.count, items=partial(shard_items, dataset, shard))
        for shard in dataset.shards
    ]
    return Source(location=location, classes=tuple(dataset.class_keys), pieces=tuple(pieces))


def shard_items(dataset: shards.Dataset, shard: shards.Shard) -> list[Item]:
    """The samples of a shard, by its index.

    Raises:
        ValueError: the tar is not the one that its marker knows, a sample lacks a part, or its JSON has no valid label.
    """
    dataset.fetch([shard])
    if sha256(shard.tar) != shard.sha256:  # else what is computed from it would be kept under another's name
        raise ValueError(f"{shard.tar} does not have the sha256 of its marker; `synthclone verify` tells more")
    items, num_classes = [], len(dataset.class_keys)
    with shard.tar.open("rb") as tar:
        for sample in read_index(shard.index):
            if not {"jpg", "json"} <= sample.keys():
                raise ValueError(f"{shard.index}: a sample has {', '.join(sample)}, but needs jpg and json")
            image, text = sample["jpg"], sample["json"]
            tar.seek(text.offset_bytes)
            fields = parse_fields(shard.tar, text, tar.read(text.size_bytes))
            label, prompt = fields.get("label"), fields.get("prompt")
            if not isinstance(label, int) or not 0 <= label < num_classes:
                raise ValueError(
                    f"{shard.tar}: {text.name} has label {label!r}, but dataset.json lists {num_classes} classes; "
                    "make the data set again"
                )
            items.append(
                Item(
                    path=shard.tar,
                    offset_bytes=image.offset_bytes,
                    size_bytes=image.size_bytes,
                    name=f"{shard.tar}/{image.name}",
                    label=label,
                    prompt=prompt if isinstance(prompt, str) else None,
                )
            )
    return items


def parse_fields(tar: Path, member: Member, data: bytes) -> dict[str, object]:
    """A sample's JSON."""
    try:
        fields = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{tar}: {member.name} is no JSON ({error}); make the shard again") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{tar}: {member.name} holds no JSON object; make the shard again")
    return fields


def open_folder(location: Path) -> Source:
    """An ImageFolder; its folders' names are the class keys."""
    images = list_images(location)
    items = []
    for file, label in zip(images.files, images.labels, strict=True):
        items.append(
            Item(path=file, offset_bytes=0, size_bytes=file.stat().st_size, name=str(file), label=label, prompt=None)
        )
    runs = [items[start : start + FILES_PER_PIECE] for start in range(0, len(items), FILES_PER_PIECE)]
    pieces = [
        Piece(key=run_key(location, images.classes, run), count=len(run), items=partial(list, run)) for run in runs
    ]
    return Source(location=str(location), classes=images.classes, pieces=tuple(pieces))


def run_key(location: Path, classes: tuple[str, ...], run: list[Item]) -> str:
    """A key of a run of files.

    The folder itself is part of it: pictures without compression, unpacked with one and the same time, can differ in
    nothing else.
    """
    rows = [(str(item.path.relative_to(location)), item.size_bytes, item.path.stat().st_mtime_ns) for item in run]
    return hashlib.sha256(json.dumps([str(location.resolve()), classes, rows]).encode()).hexdigest()


def read_range(path: Path, offset_bytes: int, size_bytes: int) -> bytes:
    """A part of a file."""
    with path.open("rb") as file:
        file.seek(offset_bytes)
        return file.read(size_bytes)
