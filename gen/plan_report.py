"""What a run would make and cost, without making it.

    synthclone plan --preset in100-cd-g2.0 --tflops-per-s 200
    synthclone plan --engines DIR --classes digits --prompt c,d --images-per-s 40 --json

It takes the options of `synthclone generate`; without --engines it supposes Stable Diffusion 1.4 at 512x512.
"""

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synthclone.engines.command import run
from synthclone.gen import cost, tokens
from synthclone.gen.config import PRESETS, GenerateOptions, make_plan
from synthclone.gen.plan import Plan
from synthclone.gen.resize import resize, stored_shape
from synthclone.gen.solvers import check_steps

NUM_SAMPLES = 5
SCHEDULER = {"num_train_timesteps": 1000, "steps_offset": 1}
"""Of Stable Diffusion 1.4, as far as it bounds the steps."""
TAR_BYTES_PER_IMAGE = 4 * 512 + 256
"""Two headers, a block of JSON, half a block of padding after the JPEG, and the index's line."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig(GenerateOptions):
    """Print what `synthclone generate` would make with the same options, and what it would cost, without generating."""

    engines: Path | None = None
    """Engines to count tokens and work for; without them Stable Diffusion 1.4 at 512x512 is supposed."""
    output: str = ""
    """Taken so that the options of a generation can be given as they are; nothing is written."""
    images_per_s: float = 0.0
    """Measured images per second of a GPU, for GPU-hours; 0 for not measured."""
    tflops_per_s: float = 0.0
    """Sustained TFLOP per second of a GPU, for GPU-hours where --images-per-s is not given."""
    json: bool = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("images_per_s", "tflops_per_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, but must be over 0")


def report(config: PlanConfig, plan: Plan) -> dict[str, Any]:
    """The numbers of a plan; None stands for what is not known."""
    check_steps(config.solver, config.steps, scheduler_of(config))
    generated, model = model_of(config)
    height, width = stored_shape(*generated, config.stored_size)
    distinct = tokens.num_distinct(tokens.used_prompts(plan))
    tokenizer = tokens.load_tokenizer(config.engines) if config.engines else None
    per_image = photograph_bytes(height, width, config.quality) + TAR_BYTES_PER_IMAGE
    tflop = None
    if model:
        tflop = plan.num_images * cost.image_tflop(config, model) + distinct * model.text_encoder_tflop
    hours = None
    if config.images_per_s:
        hours = plan.num_images / config.images_per_s / 3600
    elif config.tflops_per_s and tflop is not None:
        hours = tflop / config.tflops_per_s / 3600
    return {
        "images": plan.num_images,
        "classes": len(plan.classes),
        "images_per_class": [min(plan.counts), max(plan.counts)],
        "shards": plan.num_shards,
        "stored_height_width": [height, width],
        "bytes_estimate": plan.num_images * per_image,
        "bytes_basis": f"the bytes a pixel of two photographs as JPEG of quality {config.quality}",
        "distinct_prompts": distinct,
        "unet_calls_per_image": cost.unet_calls(config),
        "unet_rows_per_image": cost.unet_rows(config),
        "unet_rows": plan.num_images * cost.unet_rows(config),
        "model": asdict(model) if model else None,
        "tflop": tflop,
        "gpu_hours": hours,
        "long_prompts": tokens.too_long(tokens.used_prompts(plan), tokenizer),
        "tokens_counted": tokenizer is not None,
        "sample_prompts": [plan.image(index).prompt for index in range(min(NUM_SAMPLES, plan.num_images))],
    }


def scheduler_of(config: PlanConfig) -> dict[str, Any]:
    """The scheduler's settings."""
    if config.engines is None:
        return SCHEDULER
    from synthclone.export.pipeline import read_info  # with PyTorch, which a plan without engines does not need

    scheduler: dict[str, Any] = read_info(config.engines)["scheduler"]
    return scheduler


def model_of(config: PlanConfig) -> tuple[tuple[int, int], cost.ModelCost | None]:
    """Height and width of generated images, and what the model costs there, if that is known."""
    if config.engines is None:
        model = cost.STABLE_DIFFUSION_1
        shape = config.height or model.height, config.width or model.width
        return shape, model if shape == (model.height, model.width) else None
    return cost.engines_cost(config.engines, config.height, config.width)


def photograph_bytes(height: int, width: int, quality: int) -> int:
    """Bytes of a typical photograph stored as generated images are: the mean of the two that scikit-learn comes with."""
    from PIL import Image

    from synthclone.gen import jpeg

    package = importlib.util.find_spec("sklearn")  # found, not imported, which would take its memory
    assert package is not None and package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "images"
    sizes = []
    for name in ("china.jpg", "flower.jpg"):
        with Image.open(folder / name) as image:
            photo_HWC = np.asarray(image.convert("RGB"))
        side = min(photo_HWC.shape[:2])
        small_HWC = resize(photo_HWC[:side, :side], min(side, height, width))
        bytes_per_pixel = len(jpeg.encode(small_HWC, quality=quality)) / small_HWC.shape[0] ** 2
        sizes.append(bytes_per_pixel * height * width)
    return round(sum(sizes) / len(sizes))


def text_of(found: dict[str, Any], config: PlanConfig) -> str:
    """The report for people."""
    fewest, most = found["images_per_class"]
    each = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    unknown = (
        "not known: the checkpoint of the engines is gone"
        if config.engines
        else "not known at this size without --engines"
    )
    hours = "give --images-per-s, measured, or --tflops-per-s"
    if found["gpu_hours"] is not None:
        rate = f"{config.images_per_s:g} images/s" if config.images_per_s else f"{config.tflops_per_s:g} TFLOP/s"
        hours = f"{found['gpu_hours']:,.4g} at {rate}"
    model = found["model"]
    rows = {
        "images": f"{found['images']:,} of {found['classes']:,} classes, {each} each",
        "shards": f"{found['shards']:,} of up to {config.shard_size:,} images",
        "bytes": f"about {found['bytes_estimate'] / 1e9:,.4g} GB (estimate: {found['bytes_basis']})",
        "distinct prompts": f"{found['distinct_prompts']:,}",
        "U-Net": f"{found['unet_calls_per_image']} calls an image, {found['unet_rows']:,} rows in all",
        "TFLOP": f"{found['tflop']:,.5g} ({model['name']} at {model['height']}x{model['width']})" if model else unknown,
        "GPU-hours": hours,
    }
    lines = [f"{name:<17} {value}" for name, value in rows.items()]
    lines += ["sample prompts", *(f"  {prompt}" for prompt in found["sample_prompts"])]
    if found["long_prompts"]:
        lines.append(tokens.describe_long(found["long_prompts"]))
    if not found["tokens_counted"]:
        lines.append("tokens were bounded from below by words; give --engines to count them")
    return "\n".join(lines)


def main(config: PlanConfig) -> None:
    """Print the report."""
    found = report(config, make_plan(config))
    print(json.dumps(found, ensure_ascii=False) if config.json else text_of(found, config))


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(PlanConfig, main, prog="synthclone plan", argv=argv, presets=PRESETS)


if __name__ == "__main__":
    sys.exit(command())
