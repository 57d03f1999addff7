"""The data set's card: `README.md` as the Hugging Face hub shows it, and `croissant.json` beside it.

`write_card` is called when the last shard is there. The text follows from the manifest and the shards' markers alone, so
that a set which was interrupted and resumed has the card of one that was not. What the set is good for, and what is wrong
with it, is in `data/card.md`; section 6 of the paper is where its concerns come from.
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from string import Template
from typing import Any

import yaml

from synthclone.gen import croissant, reading, storage
from synthclone.gen.storage import Storage

FILE = "README.md"
TEXT = Path(__file__).parent / "data" / "card.md"
MOST_CLASSES = 1000
"""Rows of the class table; the rest is in dataset.json."""
RAIL = "https://huggingface.co/spaces/CompVis/stable-diffusion-license"
SIZES = {1_000: "n<1K"} | {
    10 * low: f"{name}<n<{name_10}"
    for low, name, name_10 in (
        (10**3, "1K", "10K"),
        (10**4, "10K", "100K"),
        (10**5, "100K", "1M"),
        (10**6, "1M", "10M"),
        (10**7, "10M", "100M"),
        (10**8, "100M", "1B"),
    )
}
DTYPES = {bool: "bool", int: "int64", float: "float64", str: "string"}


def write_card(target: Storage, manifest: Mapping[str, Any], markers: Mapping[int, Mapping[str, Any]]) -> None:
    """Write `README.md` and `croissant.json`, unless they are there: whoever publishes a set completes them by hand.

    Args:
        target: the data set's folder, with at least one finished shard.
        manifest: content of `dataset.json`.
        markers: content of the shards' markers, by number, as `shards.markers` gives it. Their `flagged`, if they have
            one, is the number of images that the safety checker flagged.
    """
    if {FILE, croissant.FILE} <= target.sizes().keys():
        return
    name = manifest["name"]
    fields = reading.first_sample(target, min(markers)).fields
    license_name, license_url, _ = license_of(manifest)
    description = (
        f"{_images(manifest, markers)} of {len(manifest['classes']):,} classes, generated from class names by the "
        f"text-to-image model {_models(manifest)}. No image is a photograph."
    )
    metadata = croissant.describe(
        manifest, markers, fields, name=name, description=description, license_url=license_url
    )
    header = yaml.safe_dump(
        front_matter(manifest, markers, fields, name, license_name), sort_keys=False, allow_unicode=True
    )
    text = body(manifest, markers, name=name)
    target.create(FILE, f"---\n{header}---\n\n{text}".encode())
    target.create(croissant.FILE, storage.as_json(metadata))


def front_matter(
    manifest: Mapping[str, Any],
    markers: Mapping[int, Mapping[str, Any]],
    fields: Mapping[str, Any],
    name: str,
    license_name: str,
) -> dict[str, Any]:
    """The card's YAML. The features are those that `datasets` finds in WebDataset shards of this kind."""
    count = sum(marker["count"] for marker in markers.values())
    num_bytes = sum(marker["bytes"] for marker in markers.values())
    terms = {"license": license_name}
    if license_name == "other":
        terms |= {"license_name": "terms-of-the-generator", "license_link": "README.md#licence"}
    struct = [{"name": field, "dtype": DTYPES.get(type(value), "string")} for field, value in fields.items()]
    return {
        "pretty_name": name,
        **terms,
        "task_categories": ["image-classification"],
        "size_categories": [next((text for size, text in SIZES.items() if count < size), "1B<n<10B")],
        "tags": ["synthetic", "diffusion", "webdataset", "image-classification", "ai-generated"],
        "annotations_creators": ["machine-generated"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}],
        "dataset_info": {
            "features": [
                {"name": "__key__", "dtype": "string"},
                {"name": "__url__", "dtype": "string"},
                {"name": "jpg", "dtype": "image"},
                {"name": "json", "struct": struct},
            ],
            "splits": [{"name": "train", "num_bytes": num_bytes, "num_examples": count}],
            "download_size": num_bytes,
            "dataset_size": num_bytes,
        },
    }


def body(manifest: Mapping[str, Any], markers: Mapping[int, Mapping[str, Any]], *, name: str) -> str:
    """The card's text."""
    size = manifest.get("image_size")
    height, width = (size, size) if isinstance(size, int) else size or (None, None)
    num_bytes = sum(marker["bytes"] for marker in markers.values())
    entries = manifest["classes"][:MOST_CLASSES]
    classes = [
        f"| {entry['label']} | {entry['key']} | {_cell(entry['name'])} | {entry['count']:,} "
        f"| {_cell(entry.get('prompt', 'see dataset.json'))} |"
        for entry in entries
    ]
    if left := len(manifest["classes"]) - len(entries):
        classes.append(f"\nand {left:,} more, listed in `dataset.json`.")
    return Template(TEXT.read_text(encoding="utf-8")).substitute(
        name=name,
        images=_images(manifest, markers),
        num_classes=f"{len(manifest['classes']):,}",
        num_shards=f"{len(markers):,}",
        size=f"{height} x {width} pixels" if height else "of several sizes",
        megabytes=f"{num_bytes / 1e6:,.1f}",
        model=_models(manifest),
        making=making(manifest),
        classes="\n".join(classes),
        safety=safety_status(manifest, markers),
        licence=license_of(manifest)[2],
    )


def generated(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The manifests of the generated sets that a set consists of: its own, or those of the sets it was merged from."""
    if "sources" in manifest:
        return [part for source in manifest["sources"] for part in generated(source["manifest"])]
    return [manifest]


def making(manifest: Mapping[str, Any]) -> str:
    """How the set is made again: its command and sampling, or those of each set that it was merged from."""
    parts = generated(manifest)
    blocks = []
    for number, part in enumerate(parts):
        made = {**part["sampling"], "model": part["model"]}
        made |= {key: part[key] for key in ("model_sha256", "jpeg") if key in part}
        made |= {f"{name} engine": key for name, key in part["engines"].items()} | dict(part["versions"])
        rows = "\n".join(f"| {key} | `{_cell(value)}` |" for key, value in made.items())
        title = f"Part {number + 1} of {len(parts)}, {part['num_images']:,} images:\n\n" if len(parts) > 1 else ""
        blocks.append(f"{title}```sh\n{part['command']} --output DIR\n```\n\n| | |\n| --- | --- |\n{rows}")
    if len(parts) > 1:
        blocks.append("Joined by `synthclone merge`, in this order.")
    return "\n\n".join(blocks)


def license_of(manifest: Mapping[str, Any]) -> tuple[str, str, str]:
    """The hub's identifier of the terms that images inherit, where to read them, and what the card says of them."""
    if all("stable-diffusion-v1" in str(part["model"]) for part in generated(manifest)):
        return (
            "creativeml-openrail-m",
            RAIL,
            f"The generator's weights are under [CreativeML Open RAIL-M]({RAIL}). It claims no rights in the images, but "
            "binds whoever uses or passes them on to the use restrictions of its Attachment A: among others, not to break "
            "the law, not to harm or exploit minors, not to defame or harass, not to discriminate, not to give medical "
            "advice. Pass those restrictions on with the data.",
        )
    return (
        "other",
        "README.md#licence",
        f"The terms of the generator, {_models(manifest)}, decide what may be done with its images: read them before you "
        "publish, and write them here. Models derived from Stable Diffusion are commonly under an Open RAIL licence, whose "
        "use restrictions go with the images.",
    )


def safety_status(manifest: Mapping[str, Any], markers: Mapping[int, Mapping[str, Any]]) -> str:
    """What was done about unwanted content, in one paragraph."""
    modes = {part["sampling"].get("safety", "off") for part in generated(manifest)}
    if len(modes) > 1:
        return (
            "The parts of this set were treated differently: `dataset.json` has the `safety` of each, and an image that "
            "a checker has looked at has `flagged` in its JSON. Unwanted content may be among the others."
        )
    (mode,) = modes
    if mode == "off":
        return "No safety checker has looked at these images. Unwanted content may be among them."
    limits = "Such checkers miss content and flag harmless images; they know a fixed list of sexual concepts and no other harm."
    if mode == "regenerate":
        return (
            "The generator's safety checker has looked at every image; those it flagged were made again from another seed "
            f"until it passed them. {limits}"
        )
    counts = [marker["flagged"] for marker in markers.values() if "flagged" in marker]
    many = f" {sum(counts):,} are." if counts else ""
    return (
        "The generator's safety checker has looked at every image. Those it flags are still here, and have "
        f'`"flagged": true` in their JSON.{many} {limits}'
    )


def command_line(config: Any, verb: str, *, leave_out: Sequence[str] = ()) -> str:
    """The shortest command that gives a configuration: its options that differ from the defaults.

    Args:
        config: a command's dataclass.
        verb: such as "generate".
        leave_out: fields that do not decide the result, such as where it is written and by how many workers.
    """
    words = ["synthclone", verb]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in leave_out or value == default or value is None:
            continue
        flag = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, _word(value)]
    return shlex.join(words)


def _word(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    return json.dumps(value) if isinstance(value, list | tuple | dict) else str(value)


def _models(manifest: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys(str(part["model"]) for part in generated(manifest)))


def _images(manifest: Mapping[str, Any], markers: Mapping[int, Mapping[str, Any]]) -> str:
    there, planned = sum(marker["count"] for marker in markers.values()), manifest["num_images"]
    return f"{there:,} images" if there == planned else f"{there:,} of {planned:,} planned images"


def _cell(value: Any) -> str:
    """A value in a table's cell."""
    if isinstance(value, list) and len(value) > 5:
        value = f"{len(value)} entries, listed in dataset.json"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    return text.replace("|", "\\|").replace("`", "'").replace("\n", " ")
