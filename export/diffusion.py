"""Stable Diffusion's components on their way to engines: which there are, what each is made from, what is noted of all.

`parts` takes the checkpoint apart; `build` compiles the parts and writes `pipeline.json`, from which `reopen` finds the
same checkpoint again.
"""

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from synthclone.engines import backend, files
from synthclone.engines.spec import AxisRange, Precision, QuantizedFormat
from synthclone.export import checkpoint as checkpoints
from synthclone.export import components, pipeline
from synthclone.export.calibration import Calibration, check_target, read_prompts
from synthclone.export.checkpoint import Checkpoint
from synthclone.export.lora import Lora, read_lora
from synthclone.export.part import Part, Quantization, Target, build_part
from synthclone.export.quantized_layers import quantize_layers
from synthclone.export.sizes import ImageSizes


@dataclass(frozen=True, kw_only=True)
class Request:
    """A checkpoint, and what is wanted of it."""

    model: str
    batch: AxisRange
    sizes: ImageSizes
    tokenizer: str | None = None
    configs: Path | None = None
    lora: Path | None = None
    lora_scale: float = 1.0
    quantize: QuantizedFormat | None = None
    """8 bits for the U-Net."""
    prompts: Path | None = None
    """To calibrate with."""


def parts(
    checkpoint: Checkpoint,
    checkpoint_key: str,
    precision: Precision,
    batch: AxisRange,
    sizes: ImageSizes,
    lora: Lora | None = None,
) -> list[Part]:
    """The three components. A LoRA changes the key of those that it changes, and of no other."""
    specs = components.engine_specs(checkpoint, precision, batch, sizes)
    return [
        Part(
            spec=spec,
            key=key_with(checkpoint_key, lora, components.CHECKPOINT_COMPONENT[name]),
            config=components.module_config(checkpoint, name),
            load=lambda name=name: components.load_module(checkpoint, name, lora),
            make_module=components.make_module,
        )
        for name, spec in specs.items()
    ]


def key_with(checkpoint_key: str, lora: Lora | None, component: str) -> str:
    """The key of a component with a LoRA merged."""
    if lora is None or component not in lora.layers:
        return checkpoint_key
    return hashlib.sha256(json.dumps([checkpoint_key, lora.identity], sort_keys=True).encode()).hexdigest()


def build(request: Request, target: Target) -> tuple[list[str], int]:
    """Build what is not built yet; returns the names of the engines built, and how many there are.

    Raises:
        ValueError: the checkpoint or the LoRA is not what it should be.
    """
    prompts: tuple[str, ...] = ()
    if request.quantize is not None and request.prompts is not None:
        check_target(request.quantize, target, needs_onnx=backend.find(target.backend).NEEDS_ONNX)
        prompts = read_prompts(request.prompts)
    checkpoint = checkpoints.find(request.model, tokenizer=request.tokenizer, configs=request.configs)
    lora = read_lora(request.lora, request.lora_scale) if request.lora else None
    known = pipeline.read_info(target.output)["fingerprint"] if (target.output / "pipeline.json").is_file() else {}
    fingerprint = checkpoints.fingerprint(checkpoint, known)
    key = pipeline.fingerprint_key(fingerprint)
    found = parts(checkpoint, key, target.precision, request.batch, request.sizes, lora)
    calibration = None
    if request.quantize is not None:
        keys = tuple(part.key for part in found)
        calibration = Calibration(
            form=request.quantize, prompts=prompts, checkpoint=checkpoint, lora=lora, keys=keys[:2]
        )
        found = [with_quantization(part, calibration, target) if part.spec.name == "unet" else part for part in found]
    built = []
    bar = tqdm(found, desc="engines", unit="engine")
    for part in bar:
        bar.set_postfix_str(part.spec.name)
        if build_part(part, target):
            built.append(part.spec.name)
    shutil.copytree(checkpoint.tokenizer, target.output / "tokenizer", dirs_exist_ok=True)
    image = found[-1].spec.outputs[0]
    height, width = image.shape(found[-1].spec.sizes("optimum"))[-2:]
    info = {
        "format": pipeline.FORMAT,
        "model": request.model,
        "model_folder": str(checkpoint.root),
        "model_file": checkpoint.file.name if checkpoint.file else None,
        "configs": str(checkpoint.folder) if request.configs else None,
        "fingerprint": fingerprint,
        "lora": {"path": str(lora.path), **lora.identity} if lora else None,
        "backend": target.backend,
        "precision": target.precision,
        "opset": target.opset,
        "quantization": calibration.identity() if calibration else None,
        "image_size": height if height == width else [height, width],
        "scheduler": checkpoint.config("scheduler"),
        "rebuild": target.rebuild_command,
    }
    files.write_json(target.output / "pipeline.json", info)
    return built, len(found)


def with_quantization(part: Part, calibration: Calibration, target: Target) -> Part:
    """The U-Net, to be calibrated when it is exported."""
    path = target.output / "onnx" / f"{part.spec.name}-calibration-{calibration.form}.safetensors"

    def quantizer(module: nn.Module) -> Callable[[nn.Module], nn.Module]:
        layers = calibration.amplitudes(module, part.spec, target.device, path)
        return functools.partial(quantize_layers, layers=layers, form=calibration.form)

    quantization = Quantization(form=calibration.form, digest=calibration.digest(part.spec), quantizer=quantizer)
    return dataclasses.replace(part, quantization=quantization)


def reopen(info: Mapping[str, Any], engines: Path) -> Checkpoint:
    """The checkpoint that a folder of engines was made from.

    Raises:
        ValueError: it is gone or no longer complete.
    """
    root = Path(info["model_folder"])
    if info.get("model_file") is None:
        return checkpoints.find(str(root))
    configs = Path(info["configs"]) if info["configs"] else None
    return checkpoints.find(str(root / info["model_file"]), tokenizer=str(engines / "tokenizer"), configs=configs)
