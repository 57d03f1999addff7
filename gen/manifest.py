"""The data set's own manifest, `dataset.json`: what decides its bytes, so that it can be checked and made again.

The class table holds the words and counts themselves, so that neither the class list nor a captions file nor the folder
that counts came from is needed a second time.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from synthclone.export.pipeline import Description, fingerprint_key
from synthclone.gen import jpeg, shards, storage
from synthclone.gen.card import command_line
from synthclone.gen.classes import ClassEntry
from synthclone.gen.config import GenerateConfig
from synthclone.gen.plan import Plan
from synthclone.gen.resize import stored_shape
from synthclone.gen.storage import Storage

SAMPLING = (
    "prompt",
    "negative_prompt",
    "guidance",
    "guidance_interval",
    "solver",
    "steps",
    "seed",
    "stored_size",
    "quality",
    "safety",
)
"""Options that stand in the manifest as they were given."""
MOST_CHARACTERS = 80
"""Of a value in a message."""
NOT_TOLD = ("engines", "output", "device", "batch", "memory_limit", "distributor", "workers", "retries", "profile")
"""Options that do not decide the images, or are other ones for whoever makes the data set again."""
NOT_COMPARED = ("name", "command", "sampling.batch", "safety_checker.folder")
"""What may differ between runs that make the same data set."""
ONLY_WARNED_OF = "versions."
"""Libraries around the engines, which have versions of their own in their keys: bits of a JPEG may come to differ."""


def describe(
    config: GenerateConfig, plan: Plan, pipeline: Description, batch: int, checker: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The data set's manifest: everything that decides its bytes, so that it can be made again.

    Args:
        config: options of a generation.
        plan: what they come to.
        pipeline: the engines.
        batch: images per batch.
        checker: folder and sha256 of the safety checker, if there is one.
    """
    again = f"{command_line(config, 'generate', leave_out=NOT_TOLD)} --engines DIR"
    generated = pipeline.image_shape(config.height, config.width)
    height, width = stored_shape(*generated, config.stored_size)
    return {
        # Not the folder's name: the same data set has the same card wherever it lies.
        "name": f"{Path(config.classes).stem}, synthetic ({config.template or config.prompt})",
        "command": again,
        "num_images": plan.num_images,
        "num_shards": plan.num_shards,
        "shard_size": plan.shard_size,
        "image_size": height if height == width else [height, width],
        "classes": [
            {
                "key": entry.key,
                "name": entry.name,
                "label": label,
                "count": count,
                "prompt": plan.prompt(entry, 0),
                "hypernym": entry.hypernym,
                "definition": entry.definition,
                **({"captions": list(plan.captions[entry.key])} if plan.captions else {}),
            }
            for label, (entry, count) in enumerate(zip(plan.classes, plan.counts, strict=True))
        ],
        "sampling": {
            **{name: getattr(config, name) for name in SAMPLING},
            "template": plan.template,
            "backgrounds": list(plan.backgrounds),
            "height": generated[0],
            "width": generated[1],
            "batch": batch,
        },
        "model": pipeline.info["model"],
        "model_sha256": fingerprint_key(pipeline.info["fingerprint"]),
        "engines": pipeline.engine_keys,
        "rows_depend_on_batch": pipeline.rows_depend_on_batch,
        **({"safety_checker": dict(checker)} if checker else {}),
        "jpeg": {name: value for name, value in jpeg.OPTIONS.items() if name != "format"}
        | {"quality": config.quality, "digital_source_type": jpeg.DIGITAL_SOURCE_TYPE},
        "versions": {name: version(name) for name in ("synthclone", "torch", "numpy", "pillow")},
    }


def plan_of(manifest: Mapping[str, Any]) -> Plan:
    """The plan that a manifest was made from."""
    table, sampling = manifest["classes"], manifest["sampling"]
    words = ("key", "name", "hypernym", "definition")
    return Plan(
        classes=tuple(ClassEntry(**{name: entry[name] for name in words}) for entry in table),
        counts=tuple(entry["count"] for entry in table),
        template=sampling["template"],
        backgrounds=tuple(sampling["backgrounds"]),
        captions={entry["key"]: tuple(entry["captions"]) for entry in table if "captions" in entry},
        seed=sampling["seed"],
        shard_size=manifest["shard_size"],
    )


def config_of(manifest: Mapping[str, Any], *, engines: Path, output: str) -> GenerateConfig:
    """The options that make the data set again, with the plan of `plan_of`: its words and counts are not among them."""
    sampling, checker = manifest["sampling"], manifest.get("safety_checker")
    return GenerateConfig(
        engines=engines,
        output=output,
        classes=shards.MANIFEST,
        shard_size=manifest["shard_size"],
        safety_checker=Path(checker["folder"]) if checker else None,
        **{name: sampling[name] for name in (*SAMPLING, "batch", "height", "width")},
    )


def start_dataset(target: Storage, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, or hold the one that is there against it.

    Of two runs that start another data set each in the same place at once, one is refused. Shards without a manifest
    are taken over if their markers say that they were made for this one.

    Raises:
        ValueError: the folder holds another data set; the message names the first difference.
    """
    if shards.MANIFEST not in (sizes := target.sizes()):
        adopt(target, sizes, identity(manifest))
        target.create(shards.MANIFEST, storage.as_json({"format": shards.FORMAT, **manifest}))
    compare(target, manifest)


def adopt(target: Storage, sizes: Mapping[str, int], wanted: str) -> None:
    """Make sure that shards which lie there without a manifest belong to this one."""
    if not any(name.endswith(".tar") for name in sizes):
        return
    found = {marker.get("dataset") for marker in shards.markers(target, sizes).values()}
    if found != {wanted}:
        raise ValueError(
            f"{target.url} holds shards of another data set, and no {shards.MANIFEST}; give another --output"
        )


def compare(target: Storage, manifest: Mapping[str, Any]) -> None:
    """Hold the manifest that is there against one.

    Raises:
        ValueError: they differ in what decides the images; the message names the first difference.
    """
    there, here = _flatten(shards.read_manifest(target)), _flatten(manifest)
    names = [name for name in dict.fromkeys([*here, *there]) if name != "format" and _is_compared(name, here)]
    names.sort(key=lambda name: (not name.startswith("sampling."), name.startswith("classes[")))
    for name in names:
        if there.get(name) == here.get(name):
            continue
        if name.startswith(ONLY_WARNED_OF):
            print(
                f"warning: {target.url} was begun with {name.removeprefix(ONLY_WARNED_OF)} {there.get(name)}, and here is "
                f"{here.get(name)}; images made from now on may differ in their last bits",
                file=sys.stderr,
            )
            continue
        raise ValueError(
            f"{target.url} holds another data set: its {name} is {_short(there.get(name))}, this run's is "
            f"{_short(here.get(name))}; give another --output, or the same options"
        )


def identity(manifest: Mapping[str, Any]) -> str:
    """A digest of what decides the images, which every shard's marker bears."""
    flat = _flatten(manifest)
    decisive = {
        name: value
        for name, value in flat.items()
        if _is_compared(name, flat) and not name.startswith(ONLY_WARNED_OF) and name != "format"
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]


def recorded_batch(target: Storage) -> int:
    """Images per batch of the runs before; 0 if there were none."""
    if shards.MANIFEST not in target.sizes():
        return 0
    return int(shards.read_manifest(target).get("sampling", {}).get("batch", 0))


def _is_compared(name: str, manifest: Mapping[str, Any]) -> bool:
    """Whether two runs of one data set must agree in it; in the batch only where rows are known to depend on it."""
    if name == "sampling.batch":
        return bool(manifest.get("rows_depend_on_batch"))
    return name not in NOT_COMPARED and not name.endswith("].location")


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by their path: `sampling.seed`, `classes[3].prompt`."""
    if isinstance(tree, Mapping):
        items = [(f"{prefix}.{name}" if prefix else str(name), value) for name, value in tree.items()]
    elif isinstance(tree, list | tuple):
        items = [(f"{prefix}[{number}]", value) for number, value in enumerate(tree)]
    else:
        return {prefix: tree}
    return {path: leaf for name, value in items for path, leaf in _flatten(value, name).items()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."
