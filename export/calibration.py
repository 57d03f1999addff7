"""Calibration of an 8-bit U-Net: NVIDIA's modelopt watches the fp32 U-Net denoise, and notes how large its inputs get.

The inputs are those that sampling meets: the latents of whole trajectories (DDIM, guided) at prompts from a file, one a
line; `synthclone prompts` writes one from a class list. The same prompts give the same calibration. What is made of it
is in `quantized_layers.py`; building and checking the engine is left to `part.py`.
"""

import contextlib
import copy
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from synthclone.engines.spec import EngineSpec, QuantizedFormat
from synthclone.export import components
from synthclone.export.checkpoint import Checkpoint
from synthclone.export.lora import Lora
from synthclone.export.part import Target
from synthclone.export.quantized_layers import Amplitudes

KEPT_LAYERS = ("time_embedding", "time_emb_proj", "conv_in", "conv_out", "conv_shortcut")
"""Left in the U-Net's own precision, by a part of their names: first and last convolution, whatever carries the time, and
the shortcuts between resolutions. They are the names in `filter_func_default` of NVIDIA's examples (github.com/NVIDIA/
Model-Optimizer, examples/diffusers/quantization/utils.py) that a U-Net of Stable Diffusion 1.x has."""
WEIGHTS: dict[QuantizedFormat, dict[str, Any]] = {
    "int8": {"num_bits": 8, "axis": 0},  # a scale for each output channel
    "fp8": {"num_bits": (4, 3), "axis": None},
}
INPUTS: dict[QuantizedFormat, dict[str, Any]] = {
    "int8": {"num_bits": 8, "axis": None},
    "fp8": {"num_bits": (4, 3), "axis": None},
}
STEPS = 20
GUIDANCE = (2.0, 7.5)
"""Scales of guidance, which prompts take in turn: the paper's best, and Stable Diffusion's default."""
SEED = 0
BATCH = 4
INSTALL = "install it with `pip install synthclone[quantization]`"


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a text file, one a line; empty lines do not count.

    Raises:
        ValueError: no such file, not UTF-8, or no prompt in it.
    """
    mend = "write one with `synthclone prompts --classes LIST --output FILE`"
    if not path.is_file():
        raise ValueError(f"--calibration {path} is no file; {mend}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--calibration {path} is not UTF-8 text (byte {error.start}); {mend}") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise ValueError(f"--calibration {path} holds no prompt; {mend}")
    return prompts


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How the U-Net of a checkpoint is to be quantized."""

    form: QuantizedFormat
    prompts: tuple[str, ...]
    checkpoint: Checkpoint
    lora: Lora | None
    keys: tuple[str, ...]
    """Hashes of the checkpoint with its LoRA."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the scales, as plain data."""
        return {
            "format": self.form,
            "prompts": list(self.prompts),
            "steps": STEPS,
            "guidance": list(GUIDANCE),
            "seed": SEED,
            "kept_layers": list(KEPT_LAYERS),
            "checkpoint": list(self.keys),
            "modelopt": importlib.metadata.version("nvidia-modelopt"),
        }

    def digest(self, spec: EngineSpec) -> str:
        """sha256 of the identity, and of the size at which it is measured."""
        data = [self.identity(), list(spec.inputs[0].shape(spec.sizes("optimum"))[1:])]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def amplitudes(self, unet: nn.Module, spec: EngineSpec, device: torch.device, path: Path) -> dict[str, Amplitudes]:
        """By layer; measured, or read from `path`, where an earlier build has left the same measurement.

        Args:
            unet: fp32 on the CPU; it stays as it is.
            spec: its signature.
            device: where to measure.
            path: a .safetensors file.
        """
        digest = self.digest(spec)
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                if file.metadata() == {"calibration": digest}:
                    names = sorted({name.rpartition(".")[0] for name in file.keys()})  # noqa: SIM118
                    get = file.get_tensor
                    return {
                        name: Amplitudes(input=get(f"{name}.input"), weight=get(f"{name}.weight")) for name in names
                    }
        layers = _measure(self, unet, spec, device)
        tensors = {f"{name}.input": found.input for name, found in layers.items()}
        tensors |= {f"{name}.weight": found.weight for name, found in layers.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        save_file(tensors, part, metadata={"calibration": digest})
        part.rename(path)
        return layers


def check_target(form: QuantizedFormat, target: Target, *, needs_onnx: bool) -> None:
    """Refuse what cannot run or hold a quantized U-Net, before anything is computed.

    Raises:
        ValueError: modelopt is not installed, or a backend or option that does not go with 8 bits.
    """
    if not needs_onnx:
        raise ValueError(
            f"--quantize {form} does not go with backend {target.backend}; use --backend onnxruntime or tensorrt"
        )
    for option in ("refittable", "strip_weights"):
        if target.options.get(option):
            raise ValueError(
                f"--quantize {form} does not go with the option {option}: scales fit the weights that they were measured "
                "with; leave it out"
            )
    if target.options.get("gpu_provider") == "tensorrt":
        raise ValueError(f"--quantize {form} does not go with gpu_provider tensorrt; use --backend tensorrt")
    if importlib.util.find_spec("modelopt") is None:
        raise ValueError(f"--quantize {form} needs nvidia-modelopt; {INSTALL}")


def modelopt_config(form: QuantizedFormat) -> dict[str, Any]:
    """modelopt's configuration: convolutions and linear layers, largest magnitudes, all else untouched."""
    kinds = (("weight", WEIGHTS[form]), ("input", INPUTS[form]))
    rules: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for parent in ("nn.Conv2d", "nn.Linear"):
        rules += [{"quantizer_name": f"*{kind}_quantizer", "parent_class": parent, "cfg": cfg} for kind, cfg in kinds]
    rules += [{"quantizer_name": f"*{name}*", "enable": False} for name in KEPT_LAYERS]
    return {"quant_cfg": rules, "algorithm": "max"}


def quantize(calibration: Calibration, unet: nn.Module, spec: EngineSpec, device: torch.device) -> nn.Module:
    """A copy of the U-Net on `device` that computes in fp32 as if in 8 bits (modelopt's fake quantization)."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # it counts what it inserts, and warns
        warnings.simplefilter("ignore")
        import modelopt.torch.quantization as mtq

        model = copy.deepcopy(unet).to(device)
        return mtq.quantize(
            model, modelopt_config(calibration.form), lambda model: denoise(calibration, model, spec, device)
        )


def _measure(
    calibration: Calibration, unet: nn.Module, spec: EngineSpec, device: torch.device
) -> dict[str, Amplitudes]:
    found = {}
    modules: Iterator[tuple[str, Any]] = quantize(calibration, unet, spec, device).named_modules()
    for name, layer in modules:
        if getattr(getattr(layer, "input_quantizer", None), "is_enabled", False):
            weight = layer.weight_quantizer.amax.detach().float().cpu()
            found[name] = Amplitudes(
                input=layer.input_quantizer.amax.detach().float().cpu().reshape(()).clone(),
                weight=(weight.flatten() if weight.numel() > 1 else weight.reshape(())).clone(),
            )
    return found


def denoise(calibration: Calibration, unet: nn.Module, spec: EngineSpec, device: torch.device) -> torch.Tensor:
    """Run every prompt's trajectory; returns the last latents (prompts, C, H, W)."""
    from diffusers import DDIMScheduler
    from transformers import CLIPTokenizer

    checkpoint, prompts = calibration.checkpoint, calibration.prompts
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint.tokenizer, local_files_only=True)
    encoder = components.load_module(checkpoint, "text_encoder", calibration.lora).to(device)
    shape = spec.inputs[0].shape(spec.sizes("optimum"))[1:]
    length = spec.inputs[2].axes[1]

    def encode(texts: list[str]) -> torch.Tensor:
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        embedded: torch.Tensor = encoder(tokens.input_ids.to(device, torch.int32))
        return embedded

    latents = []
    total = STEPS * math.ceil(len(prompts) / BATCH)
    with torch.no_grad(), tqdm(total=total, desc="calibrate", unit="step") as bar:
        for begin in range(0, len(prompts), BATCH):
            numbers = range(begin, min(begin + BATCH, len(prompts)))
            text = torch.cat([encode([""] * len(numbers)), encode([prompts[number] for number in numbers])])
            noise = [torch.randn(shape, generator=torch.Generator().manual_seed(SEED + number)) for number in numbers]
            latent = torch.stack(noise).to(device)
            scales = [GUIDANCE[number % len(GUIDANCE)] for number in numbers]
            guidance = torch.tensor(scales, device=device).view(-1, 1, 1, 1)
            scheduler: Any = DDIMScheduler.from_config(checkpoint.config("scheduler"))
            scheduler.set_timesteps(STEPS)
            for timestep in scheduler.timesteps:
                times = torch.full((2 * len(numbers),), float(timestep), device=device)
                without, with_prompt = unet(torch.cat([latent, latent]), times, text).chunk(2)
                guided = without + guidance * (with_prompt - without)
                latent = scheduler.step(guided, timestep, latent).prev_sample
                bar.update()
            latents.append(latent)
    return torch.cat(latents)
