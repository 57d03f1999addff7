"""One process's share of a generation: opens what a configuration names, and makes shards."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthclone.export.pipeline import Pipeline, open_pipeline
from synthclone.gen import jpeg, reading, resize, safety, shards, storage
from synthclone.gen.batch_size import fitting_batch
from synthclone.gen.config import GenerateConfig
from synthclone.gen.embeddings import Embeddings
from synthclone.gen.guidance import parse_interval
from synthclone.gen.maker import ShardMaker
from synthclone.gen.manifest import describe, recorded_batch, start_dataset
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
    timeline, found = timeline or Timeline(), 0
    if config.memory_limit:
        found = fitting_batch(
            lambda: open_pipeline(config.engines, device),
            config.memory_limit * 2**30,
            guided=config.guidance != 1,
            height=config.height,
            width=config.width,
        )
    pipeline = open_pipeline(config.engines, device)
    if config.batch > pipeline.max_batch:
        raise ValueError(
            f"--batch {config.batch} is over the engines' maximum {pipeline.max_batch}; build them with a wider --batch"
        )
    review = None
    if config.safety != "off":
        checker = safety.open_checker(config.safety_checker or Path(pipeline.info["model_folder"]), device)
        review = safety.reviewer(checker, config.safety)
    target = storage.at(config.output)
    batch = found or config.batch or recorded_batch(target) or pipeline.max_batch
    sampler = make_sampler(config, pipeline, min(batch, plan.num_images), timeline)
    manifest = describe(config, plan, pipeline, sampler.batch)
    start_dataset(target, manifest)
    sampling = {name: manifest["sampling"][name] for name in ("guidance", "solver", "steps")}
    sampling |= {name: manifest[name] for name in ("model", "model_sha256")}

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
        """The engines, and how many images were flagged where somebody looked."""
        found = [sample.fields[reading.SAFETY_FLAG] for sample in samples if reading.SAFETY_FLAG in sample.fields]
        return {"engines": manifest["engines"], **({"flagged": sum(found)} if found else {})}

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


def make_sampler(config: GenerateConfig, pipeline: Pipeline, batch: int, timeline: Timeline) -> Sampler:
    """The sampler of a configuration, its engines' calls on the timeline; `batch` is raised to the engines' least."""
    smallest = pipeline.vae_decoder.spec.ranges["batch"].minimum
    timed = {name: TimedEngine(getattr(pipeline, name), timeline) for name in ("text_encoder", "unet", "vae_decoder")}
    watched = dataclasses.replace(pipeline, **timed)
    return Sampler(
        pipeline=watched,
        text=Embeddings(watched),
        steps=make_steps(config.solver, config.steps, pipeline.info["scheduler"]),
        guidance=config.guidance,
        batch=max(smallest, batch),
        interval=parse_interval(config.guidance_interval),
        negative_prompt=config.negative_prompt,
        pixels=pipeline.pixels(config.height, config.width),
    )
