"""Compile a Stable Diffusion 1.x checkpoint, or a trained classifier, into engines.

    python export/build.py --model gen/models/digits --backend onnxruntime --precision fp32 --batch 1:8:32 --output DIR
    python export/build.py --model CompVis/stable-diffusion-v1-4 --precision fp16 --batch 1:16:64 --output DIR
    python export/build.py --model tuned.safetensors --tokenizer openai/clip-vit-large-patch14 --output DIR
    python export/build.py --model MODEL --quantize int8 --calibration PROMPTS.txt --precision fp16 --output DIR
    python export/build.py --model RUN/checkpoints/last.safetensors --batch 1:64:256 --output DIR

Exports text encoder, U-Net and VAE decoder, builds an engine of each, and holds it against PyTorch fp32 before it
counts as built. A build that was killed goes on with the first component that is not finished; a second build of the
same thing does nothing.
"""

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from synthclone.engines import backend
from synthclone.engines.backend import BackendName
from synthclone.engines.command import run
from synthclone.engines.spec import AxisRange, Precision
from synthclone.export import classifier, diffusion
from synthclone.export.graph import Opset
from synthclone.export.part import Target
from synthclone.export.sizes import ImageSizes, parse_sizes


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Compile a Stable Diffusion checkpoint, or a trained classifier, into engines."""

    model: str
    """Diffusers folder, .safetensors file (Stable Diffusion's original layout, or a classifier that `synthclone train`
    made), or hub id such as CompVis/stable-diffusion-v1-4."""
    output: Path
    """Folder for the engines."""
    backend: BackendName = "onnxruntime"
    """What runs the engines."""
    precision: Precision = "fp32"
    """Precision of weights and activations."""
    batch: str = "1:8:32"
    """Images per batch, MIN:OPT:MAX; with guidance the U-Net's own batch is twice that."""
    image_size: int | None = None
    """Height and width in pixels, a multiple of 64; left out, the size that the checkpoint was trained at."""
    height: str | None = None
    """Height in pixels, fixed or MIN:OPT:MAX, multiples of 64; for images that are not square, or of many sizes."""
    width: str | None = None
    """Width in pixels, as the height."""
    tokenizer: str | None = None
    """For a model in one file: folder or hub id of its tokenizer, such as openai/clip-vit-large-patch14."""
    configs: Path | None = None
    """For a model in one file: diffusers folder with its components' configurations; left out, Stable Diffusion 1.x's."""
    lora: Path | None = None
    """LoRA to merge into the weights, a .safetensors file with kohya's, peft's or diffusers' names."""
    lora_scale: float = 1.0
    """Strength of the LoRA."""
    quantize: Literal["none", "int8", "fp8"] = "none"
    """Round the inputs of the U-Net's convolutions and matrix products to 8 bits, with scales that are measured: for
    onnxruntime and tensorrt. fp8 wants a GPU that computes in it (compute capability 8.9)."""
    calibration: Path | None = None
    """Prompts to measure the scales with, a text file with one a line, such as `synthclone prompts` writes."""
    opset: Opset = 20
    """ONNX operator set. 23 has attention and group normalisation as single operators, which halves the graph: for
    ONNX Runtime, and for TensorRT 10.14 and later, to be measured against 20."""
    options: dict[str, Any] = field(default_factory=dict)
    """The backend's own build options as JSON, such as '{"refittable": true}' for tensorrt."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        AxisRange.parse(self.batch)
        self.sizes()
        if self.lora is None and self.lora_scale != 1.0:
            raise ValueError(f"--lora-scale {self.lora_scale} without --lora has no effect; give the LoRA's file")

        if (self.quantize == "none") != (self.calibration is None):
            raise ValueError(
                f"--quantize {self.quantize} and --calibration {self.calibration} do not go together; give both or none"
            )

    def sizes(self) -> ImageSizes:
        """Ranges of height and width."""
        return parse_sizes(self.image_size, self.height, self.width)

    def command_line(self) -> str:
        """The command that makes the same engines again."""
        words = ["--model", self.model, "--backend", self.backend, "--precision", self.precision, "--batch", self.batch]
        for item in dataclasses.fields(self)[5:-1]:
            value = getattr(self, item.name)
            default = {} if item.name == "options" else item.default
            if value != default:
                text = json.dumps(value) if item.name == "options" else str(value)
                words += [f"--{item.name.replace('_', '-')}", text]
        return shlex.join(["synthclone", "build", *words, "--device", self.device, "--output", str(self.output)])

    def target(self, device: torch.device) -> Target:
        """What the components are compiled for."""
        return Target(
            backend=self.backend,
            precision=self.precision,
            device=device,
            output=self.output,
            rebuild_command=self.command_line(),
            options=self.options,
            opset=self.opset,
        )


def main(config: BuildConfig) -> None:
    """Build what is not built yet."""
    target = config.target(backend.pick_device(config.device))
    target.check_options()
    batch = AxisRange.parse(config.batch)
    if classifier.is_classifier(config.model):
        classifier.refuse_options(
            config.model,
            lora=config.lora,
            tokenizer=config.tokenizer,
            configs=config.configs,
            calibration=config.calibration,
        )
        built, num_engines = classifier.build(config.model, target, batch, config.sizes())
    else:
        request = diffusion.Request(
            model=config.model,
            tokenizer=config.tokenizer,
            configs=config.configs,
            lora=config.lora,
            lora_scale=config.lora_scale,
            batch=batch,
            sizes=config.sizes(),
            quantize=None if config.quantize == "none" else config.quantize,
            prompts=config.calibration,
        )
        built, num_engines = diffusion.build(request, target)
    if built:
        print(f"built {', '.join(built)} in {config.output}")
    else:
        print(f"{config.output} is up to date: all {num_engines} engines are already built")


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(BuildConfig, main, prog="synthclone build", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
