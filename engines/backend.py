"""What a backend is, and how one is found by name.

A backend is one module with `build`, `load`, `versions` and `NEEDS_ONNX`, imported only when it is asked for, because
each pulls in a large library. Everything around it (keys, manifests, parity) is the same for all: see `artifact.py`.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import nn

from synthclone.engines.spec import EngineSpec, Precision

BackendName = Literal["onnxruntime", "eager"]
EXTRAS = {"onnxruntime": "cpu or gpu", "onnx": "cpu or gpu"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an engine is built from: a component in the precision that it is to run in."""

    module: nn.Module
    """Takes the spec's inputs in order as positional tensors and returns its one output; on the CPU, in eval mode."""
    config: Mapping[str, Any]
    """Plain data from which `make_module` makes the same module without its weights."""
    precision: Precision
    digests: Mapping[str, str] = field(default_factory=dict)
    """sha256 of whatever determines the result: the weights, the ONNX graph."""
    onnx: Path | None = None
    """The exported graph, its weights beside it; None for backends with `NEEDS_ONNX = False`."""


class Engine(Protocol):
    """A component that is ready to run.

    It takes the spec's inputs by name and returns its output, on its own device, without copying to the host.
    """

    spec: EngineSpec
    device: torch.device

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Run once.

        Raises:
            ValueError: inputs do not fit the spec (see `EngineSpec.check`).
        """


class Backend(Protocol):
    """The functions that a backend module offers."""

    NEEDS_ONNX: bool

    def build(self, spec: EngineSpec, source: Source, out: Path, device: torch.device) -> None:
        """Write the plan's files into the empty folder `out`."""

    def load(
        self, folder: Path, spec: EngineSpec, device: torch.device, make_module: Callable[[Any], nn.Module]
    ) -> Engine:
        """Load the plan's files; never runs code or pickles found in them."""

    def versions(self) -> dict[str, str]:
        """The libraries that the plan depends on, with their full versions."""


def find(name: str) -> Backend:
    """The backend of a name.

    Raises:
        ValueError: unknown name, or its library is not installed; the message names the extra.
    """
    if name not in get_args(BackendName):
        raise ValueError(f"unknown backend {name!r}; valid backends: {', '.join(get_args(BackendName))}")
    try:
        module: Any = importlib.import_module(f"synthclone.engines.{name}_backend")
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(str(error.name).partition(".")[0])
        if extra is None:
            raise
        raise ValueError(
            f"backend {name} needs {error.name}; install it with `pip install synthclone[{extra}]`"
        ) from error
    return module


def device_identity(device: torch.device) -> dict[str, str]:
    """What a plan is tied to: the device's kind, and of a GPU its name and compute capability."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return {"type": "cuda", "name": torch.cuda.get_device_name(device), "compute_capability": f"{major}.{minor}"}
    return {"type": device.type}


def pick_device(name: str) -> torch.device:
    """The device of a name such as "auto", "cpu" or "cuda:0".

    Raises:
        ValueError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; give auto, cpu, cuda or cuda:N") from error
    if device.type not in {"cpu", "cuda"}:
        raise ValueError(f"device {name!r} is not supported; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} is not on this machine, which has {torch.cuda.device_count()} GPUs; use --device cpu"
        )
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device
