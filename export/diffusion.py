"""Stable Diffusion's components on their way to engines: which there are, what each is made from, what is noted of all.

`parts` takes the checkpoint apart; `build` compiles the parts and writes `pipeline.json`, from which `reopen` finds the
same checkpoint again.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from synthclone.engines import files
from synthclone.engines.spec import AxisRange, Precision
from synthclone.export import checkpoint as checkpoints
from synthclone.export import components, pipeline
from synthclone.export.checkpoint import Checkpoint
from synthclone.export.lora import Lora, read_lora
from synthclone.export.part import Part, Target, build_part
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
    checkpoint = checkpoints.find(request.model, tokenizer=request.tokenizer, configs=request.configs)
    lora = read_lora(request.lora, request.lora_scale) if request.lora else None
    known = pipeline.read_info(target.output)["fingerprint"] if (target.output / "pipeline.json").is_file() else {}
    fingerprint = checkpoints.fingerprint(checkpoint, known)
    key = pipeline.fingerprint_key(fingerprint)
    found = parts(checkpoint, key, target.precision, request.batch, request.sizes, lora)
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
        "image_size": height if height == width else [height, width],
        "scheduler": checkpoint.config("scheduler"),
        "rebuild": target.rebuild_command,
    }
    files.write_json(target.output / "pipeline.json", info)
    return built, len(found)


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
