"""A small component with a U-Net's signature, and its export."""

from pathlib import Path

import torch
from torch import nn

from synthclone.engines.spec import AxisRange, EngineSpec, TensorSpec


class Denoiser(nn.Module):
    """A U-Net's signature in small: latents, a timestep and a text's states go in, noise comes out."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.into, self.out = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
            self.text, self.norm = nn.Linear(16, 8), nn.GroupNorm(2, 8)

    def forward(self, latent_BCHW, timestep_B, text_BLD):
        dtype = latent_BCHW.dtype
        wave_B = torch.sin(timestep_B.to(dtype) / 100)
        text_BD = self.text(text_BLD).mean(1) + wave_B[:, None]
        hidden_BCHW = self.norm(self.into(latent_BCHW)) * text_BD[:, :, None, None]
        return self.out(nn.functional.silu(hidden_BCHW))


def make_spec(batch: str = "1:2:6", dtype: str = "fp32", name: str = "unet") -> EngineSpec:
    return EngineSpec(
        name=name,
        inputs=(
            TensorSpec(name="latent", dtype=dtype, axes=("batch", 4, 8, 8)),
            TensorSpec(name="timestep", dtype="int64", axes=("batch",), below=1000),
            TensorSpec(name="text", dtype=dtype, axes=("batch", 5, 16)),
        ),
        outputs=(TensorSpec(name="noise", dtype=dtype, axes=("batch", 4, 8, 8)),),
        ranges={"batch": AxisRange.parse(batch)},
    )


def export(module: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    path.parent.mkdir(parents=True)
    sample = (torch.randn(2, 4, 8, 8, dtype=dtype), torch.tensor([1, 2]), torch.randn(2, 5, 16, dtype=dtype))
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.onnx.export(
        module, sample, str(path), dynamo=True, opset_version=20, verbose=False, external_data=True,
        input_names=["latent", "timestep", "text"], output_names=["noise"],
        dynamic_shapes=({0: batch}, {0: batch}, {0: batch}),
    )  # fmt: skip
    return path
