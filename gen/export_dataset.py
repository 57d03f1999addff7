"""Write a data set in the form that another tool reads; the bytes of the JPEGs stay as they are.

    synthclone export DATASET --format imagefolder --output DIR|URL    # CLASS/KEY.jpg
    synthclone export DATASET --format webdataset --output DIR|URL     # NNNNNN.tar of KEY.jpg, KEY.cls, KEY.json; shards.json
    synthclone export DATASET --format hf --output DIR|URL             # train/NNNNNN/KEY.jpg and its metadata.jsonl

`shards.json` is a shard index that the webdataset library opens by itself. `hf` is the `imagefolder` layout of Hugging
Face's datasets, in folders of one shard each, since its hub takes at most 10,000 files a folder.

Run it again after an interruption: `.export.json` counts the shards that are whole, and each file is whole or absent.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from tqdm import tqdm

from synthclone.engines.command import run
from synthclone.gen import shards, storage
from synthclone.gen.shards import Sample
from synthclone.gen.storage import Storage

Format = Literal["imagefolder", "webdataset", "hf"]
STATE = ".export.json"
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
    source = shards.read_dataset(config.dataset)
    target = storage.at(config.output)
    what = {"format": config.format, "shards_sha256": shards.digest_of(source.shards)}
    done = claim(target, what)
    rows = list(done)
    with (
        ThreadPoolExecutor(NUM_WRITERS) as pool,
        tqdm(total=source.num_images, desc="export", unit="image") as bar,
    ):
        for position, shard in enumerate(source.shards):
            if position >= len(done):
                samples = list(shards.read_samples(source, shard))
                rows.append(WRITERS[config.format](target, shard.number, samples, pool))
                target.write_json(STATE, {**what, "shards": rows})
            bar.update(shard.count)
    if config.format == "webdataset":
        target.write_json(
            "shards.json",
            {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": config.output, "shardlist": rows},
        )
    print(f"{config.output}: {source.num_images} images of {len(source.class_keys)} classes as {config.format}")


def claim(target: Storage, what: dict[str, str]) -> list[dict[str, Any]]:
    """The shards of this very copy that are already there.

    Raises:
        ValueError: the folder holds something else.
    """
    sizes = target.sizes()
    if STATE in sizes:
        held = target.read_json(STATE)
        for name, value in what.items():
            if held.get(name) != value:
                raise ValueError(
                    f"{target.url} holds another export: its {name} is {held.get(name)!r}, not {value!r}; "
                    "give another --output"
                )
        storage.sweep(target)
        done: list[dict[str, Any]] = held["shards"]
        return done
    if sizes:
        raise ValueError(f"{target.url} is not empty and holds no export ({sorted(sizes)[0]}); give another --output")
    target.write_json(STATE, {**what, "shards": []})
    return []


def write_imagefolder(
    target: Storage, number: int, samples: Sequence[Sample], pool: ThreadPoolExecutor
) -> dict[str, Any]:
    """CLASS/KEY.jpg: what torchvision's ImageFolder reads; labels are the rank of the folder's name."""
    list(pool.map(lambda sample: target.write(f"{sample.fields['class']}/{sample.key}.jpg", sample.jpeg), samples))
    return {"number": number, "nsamples": len(samples)}


def write_webdataset(
    target: Storage, number: int, samples: Sequence[Sample], pool: ThreadPoolExecutor
) -> dict[str, Any]:
    """A tar of KEY.jpg, KEY.cls (the label in decimal) and KEY.json; returns its row of the shard index."""
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
    data, _, count = shards.pack(parts)
    name = shards.file_names(number)[0]
    target.write(name, data)
    return {"url": name, "nsamples": count, "filesize": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_hf(target: Storage, number: int, samples: Sequence[Sample], pool: ThreadPoolExecutor) -> dict[str, Any]:
    """train/NNNNNN/KEY.jpg, then the metadata.jsonl beside them: one row an image, `file_name` first."""
    folder = f"train/{number:06d}"
    list(pool.map(lambda sample: target.write(f"{folder}/{sample.key}.jpg", sample.jpeg), samples))
    rows = [{"file_name": f"{sample.key}.jpg", **sample.fields} for sample in samples]
    target.write(
        f"{folder}/metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    )
    return {"number": number, "nsamples": len(samples)}


WRITERS: dict[Format, Callable[[Storage, int, Sequence[Sample], ThreadPoolExecutor], dict[str, Any]]] = {
    "imagefolder": write_imagefolder,
    "webdataset": write_webdataset,
    "hf": write_hf,
}


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(ExportConfig, main, prog="synthclone export", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
