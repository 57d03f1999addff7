"""One process's share of a generation: opens what a configuration names, and makes shards."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthclone.export.pipeline import Description, Pipeline, open_pipeline
from synthclone.gen import jpeg, reading, resize, safety, shards, storage
from synthclone.gen.batch_size import fitting_batch
from synthclone.gen.config import GenerateConfig
from synthclone.gen.embeddings import Embeddings
from synthclone.gen.guidance import ALL_STEPS, parse_interval
from synthclone.gen.maker import ShardMaker
from synthclone.gen.manifest import describe, identity, recorded_batch, start_dataset
from synthclone.gen.plan import Plan, PlannedImage
from synthclone.gen.sampler import Sampler
from synthclone.gen.solvers import make_steps
from synthclone.gen.timeline import TimedEngine, Timeline


def open_maker(
    config: GenerateConfig,
    plan: Plan,
    device: torch.device,
    *,
    on_images: Callable[[int], None] = lambda count: None,
    timeline: Timeline | None = None,
) -> ShardMaker:
    """Load the engines, start the data set or hold the one that is there against the configuration.

    Raises:
        ValueError: options that the engines do not take, or another data set in the output folder.
        EngineError: no engines, or not for this machine.
    """
    timeline, target = timeline or Timeline(), storage.at(config.output)
    batch = config.batch or recorded_batch(target)
    if config.memory_limit and not batch:  # a run that goes on takes the batch that it began with
        batch = fitting_batch(
            lambda: open_pipeline(config.engines, device),
            config.memory_limit * 2**30,
            guided=config.guidance != 1,
            height=config.height,
            width=config.width,
        )
    pipeline = open_pipeline(config.engines, device)
    review, folder = None, checker_folder(config, pipeline)
    if config.safety != "off":
        review = safety.reviewer(safety.open_checker(folder, device), config.safety)
    manifest = plan_dataset(config, plan, pipeline, batch)
    sampler = make_sampler(config, pipeline, manifest["sampling"]["batch"], timeline)
    start_dataset(target, manifest)
    sampling = {name: manifest["sampling"][name] for name in ("guidance", "solver", "steps")}
    sampling |= {name: manifest[name] for name in ("model", "model_sha256")}
    # What is as usual is left to the manifest: it would be said again for every image.
    sampling |= {"negative_prompt": config.negative_prompt} if config.negative_prompt else {}
    sampling |= {"guidance_interval": config.guidance_interval} if sampler.interval != ALL_STEPS else {}

    def make_sample(planned: PlannedImage, image_HWC: np.ndarray, extra: Mapping[str, Any]) -> shards.Sample:
        """An encoded image with its label, prompt, seed and sampling parameters."""
        fields = {
            "label": planned.label,
            "class": planned.class_key,
            "prompt": planned.prompt,
            "seed": planned.seed,
            "serial": planned.serial,
            "index": planned.index,
            **sampling,
            **extra,
        }
        stored_HWC = resize.resize(image_HWC, config.stored_size)
        return shards.Sample(
            key=f"{planned.index:09d}", jpeg=jpeg.encode(stored_HWC, quality=config.quality), fields=fields
        )

    def provenance(samples: Sequence[shards.Sample]) -> dict[str, Any]:
        """The data set, the engines, and how many images were flagged where somebody looked."""
        found = [sample.fields[reading.SAFETY_FLAG] for sample in samples if reading.SAFETY_FLAG in sample.fields]
        flagged = {"flagged": sum(found)} if found else {}
        return {"dataset": identity(manifest), "engines": manifest["engines"], **flagged}

    return ShardMaker(
        plan=plan,
        sampler=sampler,
        target=target,
        provenance=provenance,
        make_sample=make_sample,
        review=review,
        on_images=on_images,
        timeline=timeline,
    )


def plan_dataset(config: GenerateConfig, plan: Plan, engines: Description, batch: int) -> dict[str, Any]:
    """The data set's manifest, from the engines' own descriptions: nothing is loaded.

    Args:
        config: options of a generation.
        plan: what they come to.
        engines: those of `config.engines`.
        batch: images per batch; 0 for as many as the engines take.

    Raises:
        ValueError: a batch, a size, a number of steps or a safety checker that there is not.
    """
    make_steps(config.solver, config.steps, engines.info["scheduler"])
    if batch > engines.batches.maximum:
        raise ValueError(
            f"--batch {batch} is over the engines' maximum {engines.batches.maximum}; build them with a wider --batch"
        )
    batch = max(engines.batches.minimum, min(batch or engines.batches.maximum, plan.num_images))
    checker = None
    if config.safety != "off":
        folder = checker_folder(config, engines)
        checker = {"folder": str(folder), "sha256": safety.digest(folder)}
    return describe(config, plan, engines, batch, checker)


def checker_folder(config: GenerateConfig, engines: Description) -> Path:
    """Where the safety checker is: named by an option, or in the checkpoint that the engines were built from."""
    return config.safety_checker or Path(engines.info["model_folder"])


def make_sampler(config: GenerateConfig, pipeline: Pipeline, batch: int, timeline: Timeline) -> Sampler:
    """The sampler of a configuration, its engines' calls on the timeline."""
    timed = {name: TimedEngine(getattr(pipeline, name), timeline) for name in ("text_encoder", "unet", "vae_decoder")}
    watched = dataclasses.replace(pipeline, **timed)
    return Sampler(
        pipeline=watched,
        text=Embeddings(watched),
        steps=make_steps(config.solver, config.steps, pipeline.info["scheduler"]),
        guidance=config.guidance,
        batch=batch,
        interval=parse_interval(config.guidance_interval),
        negative_prompt=config.negative_prompt,
        pixels=pipeline.pixels(config.height, config.width),
    )
