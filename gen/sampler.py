"""From planned images to pixels: encode prompts once, denoise a batch, decode it, and never let a bad image through.

    text embeddings, noise  --U-Net and solver-->  latents  --VAE decoder-->  uint8 images

Shapes: B images, L tokens, D channels of text, CHW of latents, HWC of images.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from synthclone.engines.backend import Engine
from synthclone.engines.spec import DTYPES
from synthclone.export import components, diffusion
from synthclone.export.pipeline import Pipeline
from synthclone.gen.noise import initial_noise
from synthclone.gen.plan import PlannedImage
from synthclone.gen.solvers import Step
from synthclone.gen.step_kernel import Stepper


class BadImageError(ValueError):
    """The decoder gave NaN, Inf or a constant image, twice; nothing of it is stored."""


def encode_prompts(pipeline: Pipeline, prompts: Iterable[str]) -> dict[str, torch.Tensor]:
    """Embeddings (L, D) of distinct prompts, on the engines' device; class prompts repeat a thousand times."""
    distinct = list(dict.fromkeys(prompts))
    length = pipeline.text_encoder.spec.inputs[0].axes[1]
    batch = pipeline.text_encoder.spec.ranges["batch"]
    embedded: dict[str, torch.Tensor] = {}
    for begin in range(0, len(distinct), batch.maximum):
        texts = distinct[begin : begin + batch.maximum]
        padded = texts + [""] * (batch.minimum - len(texts))
        tokens_BL = pipeline.tokenizer(
            padded, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        text_BLD = pipeline.text_encoder(tokens=tokens_BL.to(pipeline.device, torch.int32))
        embedded |= dict(zip(texts, text_BLD, strict=False))
    return embedded


def denoise(
    unet: Engine, start_BCHW: torch.Tensor, text_RLD: torch.Tensor, steps: Sequence[Step], guidance: float
) -> torch.Tensor:
    """Run a solver from initial noise to latents.

    Args:
        unet: the engine; called once a step.
        start_BCHW: float32 noise on the engine's device.
        text_RLD: R = B embeddings without guidance; with it R = 2B, first those of the empty prompt.
        steps: from `solvers.make_steps`.
        guidance: scale; unused where R = B.
    """
    dtype = DTYPES[unet.spec.inputs[0].dtype]
    stepper, latent_BCHW = Stepper(start_BCHW), start_BCHW
    rows = len(text_RLD)
    for step in steps:
        timestep_R = torch.full((rows,), step.timestep, device=start_BCHW.device)
        latent_RCHW = latent_BCHW.to(dtype).repeat(rows // len(latent_BCHW), 1, 1, 1)
        noise_RCHW = unet(latent=latent_RCHW, timestep=timestep_R, text=text_RLD)
        latent_BCHW = stepper.step(latent_BCHW, noise_RCHW, step, guidance)
    return latent_BCHW


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Engines, embeddings and a solver, ready to make planned images."""

    pipeline: Pipeline
    text: dict[str, torch.Tensor]
    """Embeddings of every prompt that will be asked for, and of ""."""
    steps: tuple[Step, ...]
    guidance: float
    """Scale of classifier-free guidance; 1 means none, and one U-Net row an image instead of two."""
    pixels: Mapping[str, int] = field(default_factory=dict)
    """"height" and "width" for engines that take several; what is left out has the size they are tuned for."""

    def images(self, planned: Sequence[PlannedImage]) -> torch.Tensor:
        """One batch of images, uint8 (B, H, W, 3) on the CPU.

        Raises:
            BadImageError: an image is NaN, Inf or constant, also when decoded again in fp32.
        """
        pipeline = self.pipeline
        batch = pipeline.vae_decoder.spec.ranges["batch"]
        padded = [*planned, *[planned[-1]] * (batch.minimum - len(planned))]
        sizes = {**pipeline.vae_decoder.spec.sizes("optimum"), **self.pixels}
        channels, height, width = pipeline.vae_decoder.spec.inputs[0].shape(sizes)[1:]
        start_BCHW = initial_noise([image.seed for image in padded], (channels, height, width)).to(pipeline.device)
        text_RLD = torch.stack([self.text[image.prompt] for image in padded])
        if self.guidance != 1:
            text_RLD = torch.cat([self.text[""].expand_as(text_RLD), text_RLD])
        latent_BCHW = denoise(pipeline.unet, start_BCHW, text_RLD, self.steps, self.guidance)[: len(planned)]
        return self._decode(latent_BCHW, planned)

    def _decode(self, latent_BCHW: torch.Tensor, planned: Sequence[PlannedImage]) -> torch.Tensor:
        """Pixels of latents. fp16 decoders overflow on some GPUs: what looks wrong is decoded again in fp32."""
        decoder = self.pipeline.vae_decoder
        minimum = decoder.spec.ranges["batch"].minimum
        rows = max(minimum, len(latent_BCHW))
        padded_BCHW = torch.cat([latent_BCHW, latent_BCHW[-1:].repeat(rows - len(latent_BCHW), 1, 1, 1)])
        image_BCHW = decoder(latent=padded_BCHW.to(DTYPES[decoder.spec.inputs[0].dtype]))[: len(latent_BCHW)].float()
        bad_B = is_bad(image_BCHW)
        if bad_B.any():
            image_BCHW[bad_B] = self._decode_fp32(latent_BCHW[bad_B].cpu()).to(image_BCHW.device)
            for image, bad in zip(planned, is_bad(image_BCHW).tolist(), strict=True):
                if bad:
                    raise BadImageError(
                        f"image {image.index} (class {image.class_key}, prompt {image.prompt!r}) came out as NaN, Inf "
                        "or constant; check the checkpoint, lower --guidance, or build engines in fp32 or bf16"
                    )
        return to_uint8(image_BCHW).cpu()

    def _decode_fp32(self, latent_BCHW: torch.Tensor) -> torch.Tensor:
        folder = self.pipeline.info["model_folder"]
        if not Path(folder).is_dir():
            raise BadImageError(
                f"the decoder gave NaN, Inf or a constant image, and {folder} is not there to decode in fp32"
            )
        with torch.inference_mode():
            checkpoint = diffusion.reopen(self.pipeline.info, self.pipeline.folder)
            return components.load_module(checkpoint, "vae_decoder")(latent_BCHW.float())


def is_bad(image_BCHW: torch.Tensor) -> torch.Tensor:
    """Which images hold NaN or Inf, or would be one flat colour as uint8."""
    finite_B = torch.isfinite(image_BCHW).flatten(1).all(dim=1)
    flat_BN = to_uint8(torch.nan_to_num(image_BCHW)).flatten(1)
    return ~finite_B | (flat_BN == flat_BN[:, :1]).all(dim=1)


def to_uint8(image_BCHW: torch.Tensor) -> torch.Tensor:
    """Decoder output in -1..1 as uint8 (B, H, W, C), rounded as diffusers does."""
    return ((image_BCHW / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
