"""Compiles a classifier that `synthclone train` made, by the same code as Stable Diffusion's components.

    synthclone build --model RUN/checkpoints/last.safetensors --precision fp16 --batch 1:64:256 --output artifacts/classifier

image (B, 3, H, W), normalised by the mean and standard deviation in `classifier.json`  ->  logits (B, C)

The one engine is `DIR/classifier`; `DIR/classifier.json` holds class keys, image size, crop and normalisation.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from synthclone.engines import artifact, files
from synthclone.engines.backend import Engine
from synthclone.engines.spec import AxisRange, EngineSpec, Precision, TensorSpec
from synthclone.export import single_file
from synthclone.export.part import Part, Target, build_part
from synthclone.export.resnet import MAKERS
from synthclone.export.sizes import ImageSizes

FORMAT = 1
METADATA = "synthclone"  # the key in the head of the file, as `synthclone train` writes it
NOTED = ("arch", "classes", "image_size", "crop_ratio", "mean", "std", "epoch")


def is_classifier(model: str) -> bool:
    """Whether a path is a file whose head says that `synthclone train` made it."""
    path = Path(model)
    return path.suffix == ".safetensors" and path.is_file() and METADATA in single_file.metadata(path)


def refuse_options(model: str, **options: object) -> None:
    """Name an option that means nothing for a classifier.

    Raises:
        ValueError: one of them is given.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"--{name} is for Stable Diffusion, but {model} is a classifier; leave it out")


def build(model: str, target: Target, batch: AxisRange, sizes: ImageSizes) -> tuple[list[str], int]:
    """Build the engine if it is not built yet; returns the names of the engines built, and how many there are.

    Raises:
        ValueError: the checkpoint is not what it should be.
    """
    path = Path(model)
    head = json.loads(single_file.metadata(path)[METADATA])
    digest = files.sha256(path)
    network = load_network(path, head)
    config = {"arch": head["arch"], "num_classes": int(network.fc.out_features)}
    part = Part(
        spec=classifier_spec(head, config["num_classes"], target.precision, batch, sizes),
        key=digest,
        config=config,
        load=lambda: network,
        make_module=make_network,
    )
    built = build_part(part, target)
    info = {
        "format": FORMAT,
        "model": model,
        "checkpoint_sha256": digest,
        **{name: head[name] for name in NOTED},
        "rebuild": target.rebuild_command,
    }
    files.write_json(target.output / "classifier.json", info)
    return (["classifier"] if built else []), 1


def classifier_spec(
    head: Mapping[str, Any], num_classes: int, precision: Precision, batch: AxisRange, sizes: ImageSizes
) -> EngineSpec:
    """The signature: the size that the classifier was trained for, unless others are asked for."""
    sides = {"height": sizes.height, "width": sizes.width}
    dynamic = {name: side for name, side in sides.items() if side is not None and side.minimum < side.maximum}
    axes = [
        name if name in dynamic else side.optimum if side else int(head["image_size"]) for name, side in sides.items()
    ]
    return EngineSpec(
        name="classifier",
        inputs=(TensorSpec(name="image", dtype=precision, axes=("batch", 3, *axes)),),
        outputs=(TensorSpec(name="logits", dtype=precision, axes=("batch", num_classes)),),
        ranges={"batch": batch} | dynamic,
    )


def load_network(path: Path, head: Mapping[str, Any]) -> Any:
    """The trained network, fp32 on the CPU.

    Raises:
        ValueError: an unknown architecture, or a tensor that is missing, of a wrong shape, or holds NaN or Inf.
    """
    if head["arch"] not in MAKERS:
        raise ValueError(f"{path} holds a {head['arch']!r}; architectures known here: {', '.join(MAKERS)}")
    with safe_open(path, framework="pt") as tensors:
        weights = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    num_classes = len(weights["fc.weight"]) if "fc.weight" in weights else max(1, len(head["classes"]))
    network = make_network({"arch": head["arch"], "num_classes": num_classes})
    for name, own in network.state_dict().items():
        if name.endswith("num_batches_tracked"):  # counts steps of training, and decides nothing in evaluation
            continue
        if name not in weights:
            raise ValueError(f"{path} lacks tensor {name}; it is no whole {head['arch']}")
        if weights[name].shape != own.shape:
            raise ValueError(
                f"{path}: tensor {name} has shape {tuple(weights[name].shape)}, but a {head['arch']} has {tuple(own.shape)}"
            )
        if not torch.isfinite(weights[name]).all():
            raise ValueError(
                f"{path}: tensor {name} holds NaN or Inf; the training has diverged, or the file is damaged"
            )
    network.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    return network.eval().requires_grad_(False)


def make_network(config: Mapping[str, Any]) -> nn.Module:
    """A network without its weights."""
    with torch.device("meta"):
        network = MAKERS[config["arch"]](config["num_classes"])
    return network.to_empty(device="cpu")


def open_classifier(folder: Path, device: torch.device) -> tuple[Engine, dict[str, Any]]:
    """The engine, and the content of `classifier.json`.

    Raises:
        EngineError: there is none, it does not match this machine, or its note is of another build.
    """
    note = folder / "classifier.json"
    if not note.is_file():
        raise artifact.EngineError(
            f"{folder} holds no classifier (no classifier.json); make it with `synthclone build --model CHECKPOINT.safetensors`"
        )
    info: dict[str, Any] = files.read_json(note)
    if info.get("format") != FORMAT:
        raise artifact.EngineError(
            f"{note} has format {info.get('format')}, this version reads {FORMAT}; build it again"
        )
    manifest = artifact.read_manifest(folder / "classifier")
    if manifest["source"]["checkpoint"] != info["checkpoint_sha256"]:
        raise artifact.EngineError(
            f"{folder}: the engine is of another checkpoint than classifier.json; build it again with `{info['rebuild']}`"
        )
    return artifact.open_engine(folder / "classifier", device=device, make_module=make_network), info
