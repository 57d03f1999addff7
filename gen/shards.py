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
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from synthclone.engines.files import write_bytes
from synthclone.gen import storage, well_formed
from synthclone.gen.storage import Storage

FORMAT = 1
MANIFEST = "dataset.json"
MARKER = re.compile(r"\d{6}\.json")


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
    """A finished shard, and where its files lie or, for a remote data set, will lie once fetched."""

    number: int
    tar: Path
    index: Path
    count: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set: its manifest and its finished shards."""

    storage: Storage
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

    def fetch(self, shards: Iterable[Shard]) -> None:
        """Copy shards of a remote data set into the cache, each whole and with the right digest; those there stay.

        Raises:
            ValueError: a shard's bytes are not those of its marker.
            OSError: the disk is full, or the store does not answer.
        """
        for shard in shards if self.storage.local is None else ():
            tar_name, index_name, _ = file_names(shard.number)
            if not shard.index.is_file():
                write_bytes(shard.index, self.storage.read(index_name))
            if not shard.tar.is_file():
                self.storage.download(tar_name, shard.tar, shard.sha256)


def file_names(number: int) -> tuple[str, str, str]:
    """A shard's tar, index and marker."""
    return f"{number:06d}.tar", f"{number:06d}.idx", f"{number:06d}.json"


def write_shard(target: Storage, number: int, samples: Iterable[Sample], provenance: Mapping[str, Any]) -> None:
    """Write a shard; the same samples give the same bytes.

    Raises:
        OSError: the disk is full or the store refuses; no half shard is left behind.
    """
    parts = (
        (sample.key, {"jpg": sample.jpeg, "json": json.dumps(dict(sample.fields), ensure_ascii=False).encode()})
        for sample in samples
    )
    data, index, count = pack(parts)
    tar_name, index_name, marker_name = file_names(number)
    target.write(tar_name, data)
    target.write(index_name, index)
    marker = {"count": count, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **provenance}
    target.write_json(marker_name, marker)


def pack(samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> tuple[bytes, bytes, int]:
    """Samples, each a key and its files by extension, as a tar, DALI's index of it, and their number."""
    buffer, lines = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, parts in samples:
            entries = []
            for extension, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(data)
                offset = buffer.tell() + tarfile.BLOCKSIZE
                tar.addfile(member, io.BytesIO(data))
                entries.append(f"{extension} {offset} {len(data)} {member.name}")
            lines.append(" ".join(entries))
    return buffer.getvalue(), "\n".join([f"v1.2 {len(lines)}", *lines, ""]).encode(), len(lines)


def unpack(tar_bytes: bytes) -> Iterator[Sample]:
    """The samples of a shard's tar, in order; see `unpack_stream`."""
    return unpack_stream(io.BytesIO(tar_bytes))


def unpack_stream(stream: IO[bytes]) -> Iterator[Sample]:
    """The samples of a shard's tar as it is read; whoever stops early has read only the beginning.

    Raises:
        ValueError: it is no tar of pairs KEY.jpg, KEY.json; the message names the member.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:  # "|": without seeking
            jpeg: tuple[str, bytes] | None = None
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                data = file.read() if file else b""
                if extension == "jpg" and jpeg is None:
                    jpeg = key, data
                elif extension == "json" and jpeg is not None and jpeg[0] == key:
                    yield Sample(key=key, jpeg=jpeg[1], fields=_parse(member.name, data))
                    jpeg = None
                else:
                    raise ValueError(f"{member.name} stands where KEY.jpg and then KEY.json are due")
            if jpeg is not None:
                raise ValueError(f"{jpeg[0]}.json is missing")
    except (tarfile.TarError, UnicodeDecodeError, EOFError) as error:
        raise ValueError(f"the tar is damaged: {error}") from error


def _parse(name: str, data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{name} is no JSON object")
    return fields


def markers(source: Storage, sizes: Mapping[str, int]) -> dict[int, dict[str, Any]]:
    """What the markers in a folder's listing say, by shard number, ascending; many are read at once."""
    numbers = sorted(int(name[:6]) for name in sizes if MARKER.fullmatch(name))
    with ThreadPoolExecutor(16) as pool:
        contents = pool.map(lambda number: read_marker(source, number), numbers)
        return dict(zip(numbers, contents, strict=True))


def read_marker(source: Storage, number: int) -> dict[str, Any]:
    """What one marker says.

    Raises:
        ValueError: it is damaged.
    """
    name = file_names(number)[2]
    marker: dict[str, Any] = source.read_json(name)
    if fault := well_formed.fault(marker, well_formed.MARKER):
        raise ValueError(
            f"{source.url}/{name} is damaged: it {fault}; delete it and run again the command that made the data set"
        )
    return marker


def finished(source: Storage, dataset: str = "") -> set[int]:
    """Numbers of the shards that are whole: marked, indexed, and with a tar of the recorded size.

    Args:
        source: where they lie.
        dataset: identity of the data set that they must belong to, where their markers name one.

    Raises:
        ValueError: a shard was made for another data set.
    """
    sizes = source.sizes()
    found = markers(source, sizes)
    for number, marker in found.items():
        if dataset and marker.get("dataset", dataset) != dataset:
            raise ValueError(
                f"{source.url}: shard {number:06d} was made by a run with other options, at the same time as another; "
                f"delete {file_names(number)[2]}, and run again to make it anew"
            )
    return {number for number, marker in found.items() if _is_whole(number, marker, sizes)}


def _is_whole(number: int, marker: Mapping[str, Any], sizes: Mapping[str, int]) -> bool:
    tar_name, index_name, _ = file_names(number)
    return sizes.get(tar_name) == marker["bytes"] and index_name in sizes


def write_manifest(target: Storage, manifest: Mapping[str, Any]) -> None:
    """Write `dataset.json`."""
    target.write_json(MANIFEST, {"format": FORMAT, **manifest})


def read_manifest(source: Storage) -> dict[str, Any]:
    """The content of `dataset.json`.

    Raises:
        ValueError: there is none, or it is damaged or of another format.
    """
    if MANIFEST not in source.sizes():
        raise ValueError(
            f"{source.url} is no data set: it has no {MANIFEST}; make one with `synthclone generate --output {source.url}`"
        )
    manifest: dict[str, Any] = source.read_json(MANIFEST)
    if isinstance(manifest, dict) and manifest.get("format") != FORMAT:
        raise ValueError(f"{source.url}/{MANIFEST} has format {manifest.get('format')}; this version reads {FORMAT}")
    if fault := well_formed.manifest_fault(manifest):
        raise ValueError(
            f"{source.url}/{MANIFEST} is damaged: it {fault}; delete it and run again the command that made it"
        )
    return manifest


def read_dataset(location: str | Path, cache: Path | None = None) -> Dataset:
    """The manifest and the finished shards of a data set; shards without a marker do not count.

    Args:
        location: folder or URL.
        cache: where `Dataset.fetch` puts the shards of a remote data set; by default `~/.cache/synthclone/shards`.

    Raises:
        ValueError: no data set there, no finished shard, or a shard whose files do not fit its marker.
    """
    source = storage.at(location)
    manifest, sizes, shards = read_manifest(source), source.sizes(), []
    cache = cache or Path.home() / ".cache" / "synthclone" / "shards"
    for number, marker in markers(source, sizes).items():
        tar_name, index_name, _ = file_names(number)
        if not _is_whole(number, marker, sizes):
            raise ValueError(
                f"{source.url}/{tar_name} has {sizes.get(tar_name, 0)} bytes instead of {marker['bytes']}, or lacks its "
                ".idx; run the command that made the data set again to repair it"
            )
        if source.local is not None:
            tar, index = source.local / tar_name, source.local / index_name
        else:  # named by content: what changes at the URL is another file here
            tar, index = (cache / f"{marker['sha256']}.{end}" for end in ("tar", "idx"))
        shards.append(Shard(number=number, tar=tar, index=index, count=marker["count"], sha256=marker["sha256"]))
    if not shards:
        raise ValueError(f"{location} has no finished shard; run the command that made it again to go on")
    return Dataset(storage=source, manifest=manifest, shards=tuple(shards))


def read_samples(source: Dataset, shard: Shard) -> Iterator[Sample]:
    """A finished shard's samples, read from where the data set lies and held against the marker's sha256.

    Raises:
        ValueError: the tar is not the one that its marker knows, or no shard at all, or a sample's key or JSON is not
            well formed or of a class that the manifest does not list; the message names shard and sample.
    """
    url, name = source.storage.url, file_names(shard.number)[0]
    data, keys = source.storage.read(name), set(source.class_keys)
    try:
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise ValueError("it does not have the sha256 of its marker")
        for sample in unpack(data):
            if fault := well_formed.sample_fault(sample.key, sample.fields):
                raise ValueError(f"sample {sample.key!r} {fault}")
            if sample.fields["class"] not in keys:
                raise ValueError(
                    f"sample {sample.key!r} has class {sample.fields['class']!r}, which is not in {MANIFEST}"
                )
            yield sample
    except ValueError as error:
        raise ValueError(f"{url}/{name}: {error}; `synthclone verify {url}` tells more") from error


def digest_of(finished_shards: Iterable[Shard]) -> str:
    """One sha256 of all shards' sha256, in order: the identity of a data set's images."""
    return hashlib.sha256("".join(shard.sha256 for shard in finished_shards).encode()).hexdigest()
