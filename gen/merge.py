"""Join data sets into one: classes united, labels ranked anew, each source's manifest kept.

    synthclone merge A B ... --output C

Each shard of a source becomes one shard, with new keys, labels and indices in its JSON and the same JPEG bytes. Run it
again after an interruption: finished shards stay. Classes of the same key must be the same class; sources of which one
would repeat images of another are refused.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from synthclone.engines.command import run
from synthclone.gen import card, shards, storage
from synthclone.gen.manifest import start_dataset
from synthclone.gen.shards import Dataset, Sample, Shard

DEFINITION = ("name", "hypernym", "definition")
"""What must agree where two sources have a class of the same key."""


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Join data sets with the same, overlapping or disjoint classes into one."""

    datasets: list[str] = field(metadata={"positional": True})
    """Data sets, as folders or URLs, in the order in which their shards are to follow."""
    output: str
    """Folder or URL for the joined data set; one that holds part of the same is completed."""

    def __post_init__(self) -> None:
        if len(self.datasets) < 2:
            raise ValueError(f"merge was given {len(self.datasets)} data set; give two or more")
        if self.output.rstrip("/") in {name.rstrip("/") for name in self.datasets}:
            raise ValueError(f"--output {self.output} is one of the data sets to merge; give another")


def main(config: MergeConfig) -> None:
    """Write every shard that is not there yet."""
    sources = [open_whole(location) for location in config.datasets]
    refuse_repeats(sources)
    classes = united(sources)
    manifest = describe(sources, classes)
    target = storage.at(config.output)
    start_dataset(target, manifest)
    storage.sweep(target)
    done = shards.finished(target)
    labels = {entry["key"]: entry["label"] for entry in classes}
    with tqdm(total=manifest["num_images"], desc="merge", unit="image") as bar:
        first = 0
        parts = [(i, shard) for i, source in enumerate(sources) for shard in source.shards]
        for number, (i, shard) in enumerate(parts):
            if number not in done:
                provenance = {"source": i, "source_shard": shard.number, "source_sha256": shard.sha256}
                shards.write_shard(target, number, rewritten(sources[i], shard, i, first, labels), provenance)
            first += shard.count
            bar.update(shard.count)
    if all("sampling" in part for part in card.generated(manifest)):  # the card is one of synthetic images
        card.write_card(target, manifest, shards.markers(target, target.sizes()))
    print(f"{config.output}: {first} images of {len(classes)} classes in {len(parts)} shards")


def open_whole(location: str) -> Dataset:
    """A data set of which no shard is missing.

    Raises:
        ValueError: it is not finished, or no data set.
    """
    source = shards.read_dataset(location)
    expected = source.manifest.get("num_images", source.num_images)
    if source.num_images != expected:
        raise ValueError(
            f"{location} has {source.num_images} of its {expected} images; run the command that makes it to the end first"
        )
    return source


def refuse_repeats(sources: Sequence[Dataset]) -> None:
    """Refuse sources that hold the same images: the same shard, or a class of the same seed, prompts and model.

    Raises:
        ValueError: two sources repeat each other; the message names both.
    """
    shard_of: dict[str, str] = {}
    made_of: dict[tuple[str, str], str] = {}
    for source in sources:
        url = source.storage.url
        for shard in source.shards:
            if shard.sha256 in shard_of:
                raise ValueError(
                    f"{url} and {shard_of[shard.sha256]} hold the same shard ({shards.file_names(shard.number)[0]} of "
                    "the former); name each data set once"
                )
        shard_of |= {shard.sha256: url for shard in source.shards}
        made = dict.fromkeys(makings(source.manifest), url)
        for key, seed in sorted(set(made) & set(made_of)):
            raise ValueError(
                f"{url} and {made_of[key, seed]} hold the same images of class {key}: same seed, prompts, sampling and "
                "model; generate one of them with another --seed"
            )
        made_of |= made


def makings(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each generated class with all that decides its images but their number; also of what was merged before."""
    for source in manifest.get("sources", ()):
        yield from makings(source["manifest"])
    if "sampling" in manifest:
        sampling = {name: value for name, value in manifest["sampling"].items() if name != "batch"}
        for entry in manifest["classes"]:
            yield entry["key"], f"{sampling} {manifest.get('model')} {entry.get('prompt')} {entry.get('captions')}"


def united(sources: Sequence[Dataset]) -> list[dict[str, Any]]:
    """The classes of all sources, sorted by key, with labels and counts of the whole.

    Raises:
        ValueError: two sources define a class differently.
    """
    table: dict[str, dict[str, Any]] = {}
    origin: dict[str, str] = {}
    for source in sources:
        for entry in source.manifest["classes"]:
            key, url = entry["key"], source.storage.url
            if key not in table:
                table[key], origin[key] = {name: entry[name] for name in ("key", *DEFINITION) if name in entry}, url
            for name in DEFINITION:
                if name in entry and table[key].setdefault(name, entry[name]) != entry[name]:
                    raise ValueError(
                        f"class {key} has {name} {table[key][name]!r} in {origin[key]} but {entry[name]!r} in {url}; "
                        "give one of them another key"
                    )
            if "count" in entry:
                table[key]["count"] = table[key].get("count", 0) + entry["count"]
    if any("count" not in entry for source in sources for entry in source.manifest["classes"]):
        for entry in table.values():
            entry.pop("count", None)  # a sum over some of the sources would be wrong
    return [{**table[key], "label": label} for label, key in enumerate(sorted(table))]


def describe(sources: Sequence[Dataset], classes: list[dict[str, Any]]) -> dict[str, Any]:
    """The joined data set's manifest."""
    image_sizes = [source.manifest.get("image_size") for source in sources]
    same_size = all(size is not None and size == image_sizes[0] for size in image_sizes)
    return {
        "name": " + ".join(dict.fromkeys(str(source.manifest.get("name", source.storage.url)) for source in sources)),
        "num_images": sum(source.num_images for source in sources),
        "num_shards": sum(len(source.shards) for source in sources),
        **({"image_size": image_sizes[0]} if same_size else {}),
        "classes": classes,
        "sources": [
            {
                "location": source.storage.url,
                "num_shards": len(source.shards),
                "num_images": source.num_images,
                "shards_sha256": shards.digest_of(source.shards),
                "manifest": dict(source.manifest),
            }
            for source in sources
        ],
    }


def rewritten(source: Dataset, shard: Shard, number: int, first: int, labels: Mapping[str, int]) -> Iterator[Sample]:
    """A shard's samples with their places in the joined data set.

    Raises:
        ValueError: a sample's class is not in its manifest, or the shard is not what its marker says.
    """
    for position, sample in enumerate(shards.read_samples(source, shard)):
        index, label = first + position, labels[sample.fields["class"]]
        fields = {**sample.fields, "label": label, "index": index, "source": number, "source_key": sample.key}
        yield Sample(key=f"{index:09d}", jpeg=sample.jpeg, fields=fields)


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(MergeConfig, main, prog="synthclone merge", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
