"""What an image costs to make, in U-Net rows and floating-point operations.

Stable Diffusion 1.4 at 512x512, by PyTorch's own counter: a U-Net row (one latent, once) 0.803 TFLOP, a decoded image
2.515, an encoded prompt 0.013 (once for each distinct prompt). Other models and sizes are counted from their checkpoint.
"""

from dataclasses import dataclass
from pathlib import Path

from synthclone.gen.config import DatasetOptions
from synthclone.gen.guidance import guided_steps, parse_interval
from synthclone.gen.solvers import num_calls


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """TFLOP of one row of each component."""

    name: str
    height: int
    width: int
    unet_tflop: float
    vae_decoder_tflop: float
    text_encoder_tflop: float


STABLE_DIFFUSION_1 = ModelCost(
    name="Stable Diffusion 1.4",
    height=512,
    width=512,
    unet_tflop=0.803,
    vae_decoder_tflop=2.515,
    text_encoder_tflop=0.013,
)


def unet_calls(options: DatasetOptions) -> int:
    """U-Net calls that every image goes through."""
    return num_calls(options.solver, options.steps)


def unet_rows(options: DatasetOptions) -> int:
    """Rows of U-Net work an image: one a call, two with guidance."""
    calls = unet_calls(options)
    if options.guidance == 1:
        return calls
    return calls + sum(guided_steps(parse_interval(options.guidance_interval), calls))


def image_tflop(options: DatasetOptions, model: ModelCost) -> float:
    """Work of one image, its prompt's encoding aside."""
    return unet_rows(options) * model.unet_tflop + model.vae_decoder_tflop


def engines_cost(engines: Path, height: int, width: int) -> tuple[tuple[int, int], ModelCost | None]:
    """Height and width of the images of engines, and the work of the components that those were built from.

    The work is None where their checkpoint is gone.

    Raises:
        EngineError: no engines there.
        ValueError: a size that they do not take.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from synthclone.engines.spec import EngineSpec
    from synthclone.export import components, diffusion
    from synthclone.export.pipeline import describe_pipeline

    described, tflop = describe_pipeline(engines), {}
    info, shape = described.info, described.image_shape(height, width)
    if not Path(info["model_folder"]).is_dir():
        return shape, None
    pixels = described.pixels(height, width)
    checkpoint = diffusion.reopen(info, engines)
    for name, manifest in described.manifests.items():
        spec = EngineSpec.from_json(manifest["spec"])
        chosen = {axis: size for axis, size in pixels.items() if axis in spec.ranges}
        sizes = {**spec.sizes("optimum"), **chosen, "batch": 1}
        with torch.device("meta"):
            module = components.make_module(components.module_config(checkpoint, name))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module.to("meta")(*(value.to("meta") for value in spec.sample(sizes, seed=0).values()))
        tflop[f"{name}_tflop"] = counter.get_total_flops() / 1e12
    return shape, ModelCost(name=str(info["model"]), height=shape[0], width=shape[1], **tflop)
