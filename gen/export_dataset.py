"""Write a data set in the form that another tool reads; the bytes of the JPEGs stay as they are.

    synthclone export DATASET --format imagefolder --output DIR|URL    # CLASS/KEY.jpg
    synthclone export DATASET --format webdataset --output DIR|URL     # NNNNNN.tar of KEY.jpg, KEY.cls, KEY.json; shards.json
    synthclone export DATASET --format hf --output DIR|URL             # train/NNNNNN/KEY.jpg and its metadata.jsonl

`shards.json` is a shard index that the webdataset library opens by itself. `hf` is the `imagefolder` layout of Hugging
Face's datasets, in folders of at most one shard, since its hub takes at most 10,000 files a folder; the card goes with it
(`export_card.py`).

Run it again after an interruption, or when files were lost: `.export.json` says what the copy is of, `.export-NNNNNN.json`
lists the files of a shard that is whole, and shards of which one is missing are written again. `.export*` may be left
out of an upload.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from tqdm import tqdm

from synthclone.engines.command import run
from synthclone.gen import export_card, retry, shards, storage, well_formed
from synthclone.gen.merge import open_whole
from synthclone.gen.shards import Dataset, Sample
from synthclone.gen.storage import Storage

Format = Literal["imagefolder", "webdataset", "hf"]
STATE = ".export.json"
HUB_IMAGES = 9_999
"""Images in a folder of `hf`; their metadata.jsonl is the 10,000th file."""
NUM_WRITERS = 16
"""Files that are written at once: an object store answers slowly, but many at a time."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a data set in the form that another tool reads."""

    dataset: str = field(metadata={"positional": True})
    """Folder or URL of the data set."""
    format: Format
    """imagefolder: CLASS/KEY.jpg; webdataset: tars with .jpg, .cls and .json; hf: images with metadata.jsonl."""
    output: str
    """Folder or URL for the copy; one that holds part of the same copy is completed."""

    def __post_init__(self) -> None:
        if self.output.rstrip("/") == self.dataset.rstrip("/"):
            raise ValueError(f"--output {self.output} is the data set itself; give another")


def main(config: ExportConfig) -> None:
    """Write what is not there yet."""
    source = open_whole(config.dataset)
    target = storage.at(config.output)
    what = {"format": config.format, "shards_sha256": shards.digest_of(source.shards)}
    resumed, lay_out = claim(target, what), LAYOUTS[config.format]
    num_bytes = []
    with (
        ThreadPoolExecutor(NUM_WRITERS) as pool,
        tqdm(total=source.num_images, desc="export", unit="image") as bar,
    ):
        there = files_there(target, folders(config.format, source), pool) if resumed else {}
        done = pool.map(lambda shard: bytes_of_exported(target, shard.number, there), source.shards)
        for shard, found in zip(source.shards, done, strict=True):
            if found is None:
                files = lay_out(shard.number, list(shards.read_samples(source, shard)))
                list(pool.map(lambda item: target.write(*item), files.items()))
                sizes = {path: len(data) for path, data in files.items()}
                target.write_json(state_name(shard.number), sizes)
                found = sum(sizes.values())
            num_bytes.append(found)
            bar.update(shard.count)
    if config.format == "webdataset":
        rows = [
            {"url": shards.file_names(shard.number)[0], "nsamples": shard.count, "filesize": size}
            for shard, size in zip(source.shards, num_bytes, strict=True)
        ]
        index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": config.output, "shardlist": rows}
        target.write_json("shards.json", index)
    elif config.format == "hf":
        export_card.write(source, target, sum(num_bytes))
    print(f"{config.output}: {source.num_images} images of {len(source.class_keys)} classes as {config.format}")


def claim(target: Storage, what: dict[str, str]) -> bool:
    """Take a folder for this very copy; whether a part of it may already be there.

    Raises:
        ValueError: the folder holds something else.
    """
    names = entries(target)
    if STATE in names:
        held = target.read_json(STATE)
        if fault := well_formed.fault(held, dict.fromkeys(what, well_formed.TEXT)):
            raise ValueError(f"{target.url}/{STATE} is damaged: it {fault}; give another --output, or empty this one")
        for name, value in what.items():
            if held[name] != value:
                raise ValueError(
                    f"{target.url} holds another export: its {name} is {held[name]!r}, not {value!r}; "
                    "give another --output"
                )
        return True
    if foreign := sorted(name for name in names if not name.startswith(f".{STATE}.")):  # half-written claims are ours
        raise ValueError(f"{target.url} is not empty and holds no export ({foreign[0]}); give another --output")
    target.write_json(STATE, what)
    return False


def entries(target: Storage) -> set[str]:
    """Names of the files and folders directly in a folder; none if there is no such folder."""
    try:
        found = retry.persist(lambda: target.system.ls(target.root, detail=False, refresh=True), f"list {target.url}")
    except FileNotFoundError:
        return set()
    return {path.rstrip("/").rpartition("/")[2] for path in found if path.rstrip("/") != target.root}


def state_name(number: int) -> str:
    """The file that says which files a shard was exported to; it is written after them."""
    # At the top, since torchvision takes every folder for a class, hidden ones too.
    return f".export-{number:06d}.json"


def files_there(target: Storage, folders: Iterable[str], pool: Executor) -> dict[str, int]:
    """Path and bytes of what an export has written, about 150 bytes of memory a file; what is half written is swept."""

    def listed(folder: str) -> dict[str, int]:
        place = storage.at(f"{target.url}/{folder}")
        storage.sweep(place)
        return {f"{folder}/{name}": size for name, size in place.sizes().items()}

    storage.sweep(target)
    return target.sizes() | {path: size for part in pool.map(listed, folders) for path, size in part.items()}


def bytes_of_exported(target: Storage, number: int, there: Mapping[str, int]) -> int | None:
    """Bytes of a shard's exported files; None unless each is there and whole."""
    if state_name(number) not in there:
        return None
    try:
        sizes = target.read_json(state_name(number))
    except ValueError:
        return None  # damaged: the shard is exported again
    whole = isinstance(sizes, dict) and sizes and all(there.get(path) == size for path, size in sizes.items())
    return sum(sizes.values()) if whole else None


def folders(form: Format, source: Dataset) -> list[str]:
    """Every folder that a format has below the top."""
    if form == "imagefolder":
        return source.class_keys
    return (
        [folder for shard in source.shards for folder in hf_folders(shard.number, shard.count)] if form == "hf" else []
    )


def hf_folders(number: int, count: int) -> list[str]:
    """A shard's folders: one, or as many as the hub's limit asks for."""
    num_folders = -(-count // HUB_IMAGES)
    return [f"train/{number:06d}{f'-{part}' if part else ''}" for part in range(num_folders)]


def lay_out_imagefolder(number: int, samples: Sequence[Sample]) -> dict[str, bytes]:
    """CLASS/KEY.jpg: what torchvision's ImageFolder reads; labels are the rank of the folder's name."""
    return {f"{sample.fields['class']}/{sample.key}.jpg": sample.jpeg for sample in samples}


def lay_out_webdataset(number: int, samples: Sequence[Sample]) -> dict[str, bytes]:
    """A tar of KEY.jpg, KEY.cls (the label in decimal) and KEY.json."""
    parts = (
        (
            sample.key,
            {
                "jpg": sample.jpeg,
                "cls": str(sample.fields["label"]).encode(),
                "json": json.dumps(dict(sample.fields), ensure_ascii=False).encode(),
            },
        )
        for sample in samples
    )
    return {shards.file_names(number)[0]: shards.pack(parts)[0]}


def lay_out_hf(number: int, samples: Sequence[Sample]) -> dict[str, bytes]:
    """train/NNNNNN/KEY.jpg, and the metadata.jsonl beside them: one row an image, `file_name` first."""
    files: dict[str, bytes] = {}
    for part, folder in enumerate(hf_folders(number, len(samples))):
        chosen = samples[part * HUB_IMAGES : (part + 1) * HUB_IMAGES]
        files |= {f"{folder}/{sample.key}.jpg": sample.jpeg for sample in chosen}
        rows = [{"file_name": f"{sample.key}.jpg", **sample.fields} for sample in chosen]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files[f"{folder}/metadata.jsonl"] = lines.encode()
    return files


LAYOUTS: dict[Format, Callable[[int, Sequence[Sample]], dict[str, bytes]]] = {
    "imagefolder": lay_out_imagefolder,
    "webdataset": lay_out_webdataset,
    "hf": lay_out_hf,
}
"""The files of a shard, by path."""


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(ExportConfig, main, prog="synthclone export", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
