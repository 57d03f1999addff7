"""From planned images to pixels: denoise a batch, decode it, and never let a bad image through.

    text embeddings, noise  --U-Net and solver-->  latents  --VAE decoder-->  uint8 images

Shapes: B images, L tokens, D channels of text, CHW of latents, HWC of images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from synthclone.engines.backend import Engine
from synthclone.engines.spec import DTYPES
from synthclone.export import components, diffusion
from synthclone.export.pipeline import Pipeline
from synthclone.gen.embeddings import Embeddings
from synthclone.gen.guidance import ALL_STEPS, Interval, guided_steps
from synthclone.gen.noise import initial_noise
from synthclone.gen.plan import PlannedImage
from synthclone.gen.solvers import Step
from synthclone.gen.step_kernel import Stepper

LEAST_SPREAD = 8
"""Grey levels between the darkest and the brightest pixel, in some channel, of what is a picture: more than what JPEG adds to
or takes from one colour, so that `synthclone verify` agrees."""


class BadImageError(ValueError):
    """The decoder gave NaN, Inf or a constant image, twice; nothing of it is stored."""


def denoise(
    unet: Engine,
    start_BCHW: torch.Tensor,
    text_RLD: torch.Tensor,
    steps: Sequence[Step],
    guidance: float,
    interval: Interval = ALL_STEPS,
) -> torch.Tensor:
    """Run a solver from initial noise to latents.

    Args:
        unet: the engine; called once a step.
        start_BCHW: float32 noise on the engine's device.
        text_RLD: R = B embeddings without guidance; with it R = 2B, first those of the negative prompt.
        steps: from `solvers.make_steps`.
        guidance: scale; unused where R = B.
        interval: the share of the steps with guidance; outside it the U-Net is called on the B rows with the prompt.
    """
    dtype = DTYPES[unet.spec.inputs[0].dtype]
    stepper, latent_BCHW = Stepper(start_BCHW), start_BCHW
    prompted_BLD = text_RLD[
        -len(start_BCHW) :
    ]  # cut once, because engines know a text that they have seen by its tensor
    for step, guided in zip(steps, guided_steps(interval, len(steps)), strict=True):
        text = text_RLD if guided else prompted_BLD
        timestep_R = torch.full((len(text),), step.timestep, device=start_BCHW.device)
        latent_RCHW = latent_BCHW.to(dtype).repeat(len(text) // len(latent_BCHW), 1, 1, 1)
        noise_RCHW = unet(latent=latent_RCHW, timestep=timestep_R, text=text)
        latent_BCHW = stepper.step(latent_BCHW, noise_RCHW, step, guidance)
    return latent_BCHW


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Planned images with what the U-Net needs of them, filled up to the sampler's batch with copies of the last."""

    planned: Sequence[PlannedImage]
    start_BCHW: torch.Tensor
    text_RLD: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Engines, embeddings and a solver, ready to make planned images.

    Every call has the same shape, whatever is left to do: what an image holds must not depend on where a run was
    interrupted, and a captured CUDA graph fits one shape only.
    """

    pipeline: Pipeline
    text: Embeddings
    steps: tuple[Step, ...]
    guidance: float
    """Scale of classifier-free guidance; 1 means none, and one U-Net row an image instead of two."""
    batch: int
    """Images per batch."""
    interval: Interval = ALL_STEPS
    """The share of the steps with guidance."""
    negative_prompt: str = ""
    """What guidance leads away from."""
    pixels: Mapping[str, int] = field(default_factory=dict)
    """"height" and "width" for engines that take several; what is left out has the size they are tuned for."""

    def images(self, planned: Sequence[PlannedImage]) -> torch.Tensor:
        """At most `batch` images, uint8 (B, H, W, 3) on the CPU; see `decode` for what is raised."""
        return self.decode(self.latents(self.prepare(planned)), planned)

    def prepare(self, planned: Sequence[PlannedImage]) -> Batch:
        """Initial noise and text embeddings, on the engines' device."""
        decoder, device = self.pipeline.vae_decoder, self.pipeline.device
        filled = [*planned, *[planned[-1]] * (self.batch - len(planned))]
        sizes = {**decoder.spec.sizes("optimum"), **self.pixels}
        channels, height, width = decoder.spec.inputs[0].shape(sizes)[1:]
        start_BCHW = initial_noise([image.seed for image in filled], (channels, height, width))
        without = [self.negative_prompt] * self.batch if self.guidance != 1 else []
        text_RLD = self.text.gather([*without, *(image.prompt for image in filled)])
        return Batch(planned=planned, start_BCHW=start_BCHW.to(device), text_RLD=text_RLD)

    def latents(self, batch: Batch) -> torch.Tensor:
        """The latents of a whole batch, float32 on the engines' device."""
        return denoise(self.pipeline.unet, batch.start_BCHW, batch.text_RLD, self.steps, self.guidance, self.interval)

    def decode(self, latent_BCHW: torch.Tensor, planned: Sequence[PlannedImage]) -> torch.Tensor:
        """Pixels of the planned images, uint8 (B, H, W, 3) on the CPU.

        fp16 decoders overflow on some GPUs: what looks wrong is decoded again in fp32.

        Raises:
            BadImageError: an image is NaN, Inf or constant, also when decoded again in fp32.
        """
        decoder, count = self.pipeline.vae_decoder, len(planned)
        image_BCHW = decoder(latent=latent_BCHW.to(DTYPES[decoder.spec.inputs[0].dtype]))[:count].float()
        pixels_BHWC = to_uint8(image_BCHW)
        bad_B = is_bad(image_BCHW, pixels_BHWC)
        if bad_B.any():
            again_BCHW = self._decode_fp32(latent_BCHW[:count][bad_B].cpu()).to(image_BCHW.device)
            pixels_BHWC[bad_B] = to_uint8(again_BCHW)
            still_bad = is_bad(again_BCHW, pixels_BHWC[bad_B])
            if still_bad.any():
                image = planned[int(bad_B.nonzero()[still_bad][0])]
                raise BadImageError(
                    f"image {image.index} (class {image.class_key}, prompt {image.prompt!r}) came out as NaN, Inf "
                    "or constant; check the checkpoint, lower --guidance, or build engines in fp32 or bf16"
                )
        return pixels_BHWC.cpu()

    def _decode_fp32(self, latent_BCHW: torch.Tensor) -> torch.Tensor:
        folder = self.pipeline.info["model_folder"]
        if not Path(folder).is_dir():
            raise BadImageError(
                f"the decoder gave NaN, Inf or a constant image, and {folder} is not there to decode in fp32"
            )
        with torch.inference_mode():
            checkpoint = diffusion.reopen(self.pipeline.info, self.pipeline.folder)
            return components.load_module(checkpoint, "vae_decoder")(latent_BCHW.float())


def is_bad(image_BCHW: torch.Tensor, pixels_BHWC: torch.Tensor) -> torch.Tensor:
    """Which images hold NaN or Inf as they come from the decoder, or are one flat colour as uint8."""
    low_B, high_B = torch.aminmax(image_BCHW.flatten(1), dim=1)  # both are NaN where any value is
    finite_B = torch.isfinite(low_B) & torch.isfinite(high_B)
    low_BC, high_BC = torch.aminmax(pixels_BHWC.flatten(1, 2), dim=1)
    return ~finite_B | ((high_BC - low_BC).amax(1) < LEAST_SPREAD)


def to_uint8(image_BCHW: torch.Tensor) -> torch.Tensor:
    """Decoder output in -1..1 as uint8 (B, H, W, C), rounded as diffusers does."""
    image_BCHW = torch.nan_to_num(image_BCHW / 2 + 0.5).clamp_(0, 1).mul_(255).round_()
    return image_BCHW.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
