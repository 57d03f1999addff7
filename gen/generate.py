"""Clone a data set: prompts and plan from class names, images through compiled engines, shards on disk.

    synthclone generate --engines DIR --classes digits --prompt c,d --guidance 2 --solver ddim --steps 20 \\
        --per-class 100 --seed 0 --output DIR

Run it again after any interruption: finished shards stay, the one in hand is made anew, and the bytes are those of an
unbroken run, for batches never cross a shard's border.
"""

import io
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from synthclone.engines import backend
from synthclone.engines.command import run
from synthclone.export.pipeline import Pipeline, open_pipeline
from synthclone.gen import classes, shards
from synthclone.gen.plan import Plan, PlannedImage
from synthclone.gen.prompts import PromptVariant
from synthclone.gen.sampler import Sampler, encode_prompts
from synthclone.gen.solvers import SolverName, make_steps

JPEG_OPTIONS: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Generate a sharded, resumable, reproducible image data set from class names."""

    engines: Path
    """Folder that `synthclone build` made."""
    classes: str
    """Class list: digits, imagenet100, imagenet1k, places365, or a .txt of WordNet ids or .yaml of names."""
    output: Path
    """Folder for the data set; one that holds part of the same data set is completed."""
    prompt: PromptVariant = "c"
    """Prompt variant: class, with hypernym, with definition, or with hypernym inside a background."""
    backgrounds: str = "places365"
    """Class list whose names are the backgrounds of c,h-inside-b."""
    guidance: float = 7.5
    """Scale of classifier-free guidance; 1 turns it off and halves the work."""
    solver: SolverName = "pndm"
    """Diffusion solver; pndm is what Stable Diffusion 1.4 ships and the paper used."""
    steps: int = 50
    """Diffusion steps."""
    per_class: int = 100
    """Images of each class."""
    seed: int = 0
    """Seed of the data set: of every image's noise and of the order."""
    batch: int = 0
    """Images per batch; 0 takes the most that the engines allow."""
    height: int = 0
    """Pixels, for engines that take several heights; 0 takes the one they are tuned for."""
    width: int = 0
    """Pixels, for engines that take several widths; 0 takes the one they are tuned for."""
    shard_size: int = 1000
    """Images per shard, which is also what an interruption costs at most."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise ValueError(f"--per-class is {self.per_class}, but must be 1 or more")
        if self.guidance < 1:
            raise ValueError(f"--guidance is {self.guidance}, but must be 1 (off) or more")
        if self.batch < 0:
            raise ValueError(f"--batch is {self.batch}, but must be 1 or more, or 0 for the engines' maximum")


def make_plan(config: GenerateConfig) -> Plan:
    """The plan of a configuration; warns where prompt "c" cannot tell classes apart."""
    entries = classes.load(config.classes)
    if config.prompt == "c":
        for name, keys in classes.same_names(entries).items():
            print(
                f"warning: classes {', '.join(keys)} share the name {name!r}, so prompt c makes them alike",
                file=sys.stderr,
            )
    scenes = [entry.name for entry in classes.load(config.backgrounds)] if config.prompt == "c,h-inside-b" else []
    plan = Plan(
        classes=entries,
        counts=(config.per_class,) * len(entries),
        variant=config.prompt,
        backgrounds=tuple(scenes),
        seed=config.seed,
        shard_size=config.shard_size,
    )
    for entry in entries:  # a class without a hypernym is better known before the first image than after a day
        plan.prompts_of(entry)
    return plan


def describe(config: GenerateConfig, plan: Plan, pipeline: Pipeline) -> dict[str, Any]:
    """The data set's manifest: everything that decides its bytes, so that it can be made again."""
    batch = min(config.batch or pipeline.max_batch, plan.shard_size)
    height, width = pipeline.image_shape(config.height, config.width)
    return {
        "num_images": plan.num_images,
        "num_shards": plan.num_shards,
        "shard_size": plan.shard_size,
        "image_size": height if height == width else [height, width],
        "classes": [
            {"key": entry.key, "name": entry.name, "label": label, "count": count, "prompt": plan.prompts_of(entry)[0]}
            for label, (entry, count) in enumerate(zip(plan.classes, plan.counts, strict=True))
        ],
        "sampling": {
            "prompt": config.prompt,
            "backgrounds": list(plan.backgrounds),
            "guidance": config.guidance,
            "solver": config.solver,
            "steps": config.steps,
            "seed": config.seed,
            "batch": batch,
        },
        "model": pipeline.info["model"],
        "engines": dict(pipeline.engine_keys),
        "jpeg": {name: value for name, value in JPEG_OPTIONS.items() if name != "format"},
        "versions": {name: version(name) for name in ("synthclone", "torch", "numpy", "pillow")},
    }


def start_dataset(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, or hold the one that is there against it.

    Raises:
        ValueError: the folder holds another data set; the message names the first difference.
    """
    if not (folder / shards.MANIFEST).is_file():
        if folder.is_dir() and any(folder.glob("[0-9]*.tar")):
            raise ValueError(f"{folder} holds shards but no {shards.MANIFEST}; give another --output")
        shards.write_manifest(folder, manifest)
        return
    there = _flatten(shards.read_manifest(folder))
    for name, value in _flatten(manifest).items():
        if there.get(name) != value:
            raise ValueError(
                f"{folder} holds another data set: its {name} is {there.get(name)!r}, this run's is {value!r}; "
                "give another --output, or the same options"
            )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def encode_jpeg(image_HWC: np.ndarray) -> bytes:
    """JPEG bytes of a uint8 image, decoded once to be sure: one bad JPEG stops a training pipeline for good."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, **JPEG_OPTIONS)
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        image.load()
    return buffer.getvalue()


def make_sample(planned: PlannedImage, image_HWC: np.ndarray, sampling: dict[str, Any]) -> shards.Sample:
    """An encoded image with its label, prompt, seed and sampling parameters."""
    fields = {
        "label": planned.label,
        "class": planned.class_key,
        "prompt": planned.prompt,
        "seed": planned.seed,
        "serial": planned.serial,
        "index": planned.index,
        **{name: sampling[name] for name in ("guidance", "solver", "steps")},
    }
    return shards.Sample(key=f"{planned.index:09d}", jpeg=encode_jpeg(image_HWC), fields=fields)


def main(config: GenerateConfig) -> None:
    """Make every shard that is not there yet."""
    device = backend.pick_device(config.device)
    plan = make_plan(config)
    pipeline = open_pipeline(config.engines, device)
    batch = config.batch or pipeline.max_batch
    if batch > pipeline.max_batch:
        raise ValueError(
            f"--batch {batch} is over the engines' maximum {pipeline.max_batch}; build them with a wider --batch"
        )
    pixels = pipeline.pixels(config.height, config.width)
    steps = make_steps(config.solver, config.steps, pipeline.info["scheduler"])
    manifest = describe(config, plan, pipeline)
    start_dataset(config.output, manifest)
    todo = [number for number in range(plan.num_shards) if not shards.is_done(config.output, number)]
    for leftover in config.output.glob(".*.part"):
        leftover.unlink()
    done = plan.num_images - sum(len(plan.shard_indices(number)) for number in todo)
    with tqdm(total=plan.num_images, initial=done, desc="generate", unit="image") as bar, ThreadPoolExecutor(2) as pool:
        for number in todo:
            planned = plan.images(plan.shard_indices(number))
            # Once per shard, not per run: what a shard holds must not depend on which shards came before it.
            text = encode_prompts(pipeline, ["", *(image.prompt for image in planned)])
            sampler = Sampler(pipeline=pipeline, text=text, steps=steps, guidance=config.guidance, pixels=pixels)
            samples = []
            for begin in range(0, len(planned), batch):
                part = planned[begin : begin + batch]
                images_BHWC = sampler.images(part).numpy()
                samples += [
                    pool.submit(make_sample, image, pixels, manifest["sampling"])
                    for image, pixels in zip(part, images_BHWC, strict=True)
                ]
                bar.update(len(part))
            shards.write_shard(
                config.output, number, [sample.result() for sample in samples], {"engines": manifest["engines"]}
            )
    print(f"{config.output}: {plan.num_images} images of {len(plan.classes)} classes in {plan.num_shards} shards")


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(GenerateConfig, main, prog="synthclone generate", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
