"""Checkpoints without code in them: safetensors of our own, and weights-only reading of torchvision's and timm's.

`RUN/checkpoints/last.safetensors` holds the weights under torchvision's names, and in its metadata what evaluation
needs (arch, class keys, image size). `RUN/checkpoints/state.safetensors` is what a stopped run goes on from: the same
weights and metadata, the optimizer's momentum, and the number of finished epochs. Each is renamed into place.
"""

import json
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from synthclone.engines.files import write_bytes
from synthclone.export.resnet import ARCHS, ResNet, make_model
from synthclone.train.crops import IMAGENET_MEAN, IMAGENET_STD

SAFETENSORS = (".safetensors",)
PICKLES = (".pt", ".pth", ".tar", ".bin")


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What is known of a checkpoint beside its weights."""

    arch: str
    classes: tuple[str, ...]
    """Class keys in the order of the labels; empty where the file does not say."""
    image_size: int
    crop_ratio: float
    """Share of the resized shorter side that the centre crop keeps in evaluation."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    epoch: int = 0
    """Finished epochs."""
    config: dict[str, Any]
    """The training run's resolved configuration; empty where the file does not say."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: Metadata) -> None:
    """Write tensors and metadata as safetensors, atomically."""
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(on_host, metadata={"format": "pt", "synthclone": json.dumps(asdict(metadata))}))


def load_checkpoint(path: Path, arch: str | None = None) -> tuple[ResNet, Metadata]:
    """A network with the weights of a file, in evaluation mode.

    Args:
        path: `.safetensors`, or `.pt` / `.pth` as torchvision and timm publish them.
        arch: the architecture; needed only where the file does not name it.

    Raises:
        ValueError: the file is missing, damaged, has code in it, or holds weights of another architecture.
    """
    tensors, metadata = read_tensors(path)
    weights = state_dict_of(tensors)
    if arch is not None and metadata is not None and arch != metadata.arch:
        raise ValueError(f"{path} holds a {metadata.arch}, not a {arch}; drop --arch, or give another checkpoint")
    arch = metadata.arch if metadata is not None else arch or guess_arch(path, weights)
    if "fc.weight" not in weights:
        raise ValueError(
            f"{path} has no fc.weight, so it is no {arch} classifier; give a checkpoint with torchvision's names"
        )
    model = make_model(arch, num_classes=len(weights["fc.weight"]), generator=torch.Generator())
    load_weights(model, weights, f"{path} as {arch}")
    if metadata is None:
        metadata = Metadata(arch=arch, classes=(), image_size=224, crop_ratio=0.875, config={})
    return model.eval(), metadata


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Metadata | None]:
    """All tensors of a file, and its metadata if `synthclone` wrote it. No code in the file is ever run."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a .safetensors file, or torchvision's .pt or .pth")
    if path.suffix in SAFETENSORS:
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get("synthclone")
                return {name: file.get_tensor(name) for name in file.keys()}, parse_metadata(text)  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it and run the training again") from error
    if path.suffix not in PICKLES:
        raise ValueError(f"{path} ends in {path.suffix!r}; give one of {', '.join(SAFETENSORS + PICKLES)}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True), None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is a pickle that is damaged or has code in it, which is never run; convert it to .safetensors "
            "where you trust it, or save its state_dict alone"
        ) from error


def parse_metadata(text: str | None) -> Metadata | None:
    """The metadata of a file that `synthclone` wrote."""
    if text is None:
        return None
    row: dict[str, Any] = json.loads(text)
    return Metadata(**row | {name: tuple(row[name]) for name in ("classes", "mean", "std")})


def state_dict_of(loaded: Any) -> dict[str, Tensor]:
    """The weights in what a file holds, without the wrappers `state_dict`, `model` and `module.`."""
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict):
        raise ValueError(f"the checkpoint holds a {type(loaded).__name__}; save the model's state_dict")
    weights = {str(name).removeprefix("module."): value for name, value in loaded.items()}
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}


def guess_arch(path: Path, weights: dict[str, Tensor]) -> str:
    """The architecture that a state_dict's names and shapes fit."""
    names = set(weights)
    for arch in ARCHS:
        model = make_model(arch, num_classes=1, generator=torch.Generator())
        if {name for name, _ in model.named_parameters() if not name.startswith("fc.")} <= names:
            return arch
    raise ValueError(
        f"{path} fits none of {', '.join(ARCHS)}; give a checkpoint of one of these with torchvision's names"
    )


def load_weights(model: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    """Copy weights into a model; every name and shape must fit.

    Raises:
        ValueError: names the first weight that is missing, unexpected, or of another shape.
    """
    own = model.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}  # absent from files older than 2018
    for name in [*own, *weights]:
        if name not in weights and name not in optional:
            raise ValueError(f"{what}: {name} is missing; give the --arch that the checkpoint was made with")
        if name not in own:
            raise ValueError(f"{what}: {name} is not part of the network; give the --arch of the checkpoint")
        if name in weights and weights[name].shape != own[name].shape:
            raise ValueError(
                f"{what}: {name} has shape {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}; "
                "give the --arch and the class list that the checkpoint was made with"
            )
    model.load_state_dict(weights, strict=False)
