"""The data set's own manifest, `dataset.json`: what decides its bytes, so that it can be checked and made again.

The class table holds the words and counts themselves, so that neither the class list nor a captions file nor the folder
that counts came from is needed a second time.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from synthclone.export.pipeline import Pipeline, fingerprint_key
from synthclone.gen import jpeg, shards
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
NOT_TOLD = ("engines", "output", "device", "batch", "memory_limit", "distributor", "workers", "retries", "profile")
"""Options that do not decide the images, or are other ones for whoever makes the data set again."""
NOT_COMPARED = ("name", "command", "sampling.batch")


def describe(config: GenerateConfig, plan: Plan, pipeline: Pipeline, batch: int) -> dict[str, Any]:
    """The data set's manifest: everything that decides its bytes, so that it can be made again."""
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
        "engines": dict(pipeline.engine_keys),
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
    sampling = manifest["sampling"]
    return GenerateConfig(
        engines=engines,
        output=output,
        classes=shards.MANIFEST,
        shard_size=manifest["shard_size"],
        **{name: sampling[name] for name in (*SAMPLING, "batch", "height", "width")},
    )


def start_dataset(target: Storage, manifest: dict[str, Any]) -> None:
    """Write the manifest, or hold the one that is there against it.

    The batch is only recorded: where an engine's rows do not depend on it the images are the same, and where they do,
    a run goes on with the recorded one unless it is told otherwise.

    Raises:
        ValueError: the folder holds another data set; the message names the first difference.
    """
    sizes = target.sizes()
    if shards.MANIFEST not in sizes:
        if any(name.endswith(".tar") for name in sizes):
            raise ValueError(f"{target.url} holds shards but no {shards.MANIFEST}; give another --output")
        shards.write_manifest(target, manifest)
        return
    there = _flatten(shards.read_manifest(target))
    for name, value in _flatten(manifest).items():
        if name not in NOT_COMPARED and there.get(name) != value:
            raise ValueError(
                f"{target.url} holds another data set: its {name} is {there.get(name)!r}, this run's is {value!r}; "
                "give another --output, or the same options"
            )


def recorded_batch(target: Storage) -> int:
    """Images per batch of the runs before; 0 if there were none."""
    if shards.MANIFEST not in target.sizes():
        return 0
    return int(shards.read_manifest(target).get("sampling", {}).get("batch", 0))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
