"""What a backend is, and how one is found by name.

A backend is one module with `build`, `load`, `versions`, `NEEDS_ONNX` and `Options`, imported only when it is asked for,
because each pulls in a large library. Everything around it (keys, manifests, parity) is the same for all: see
`artifact.py`. A backend may also have a `mismatch` of its own (see `mismatch` here), if its plans run in other places
than the one that built them.
"""

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import nn

from synthclone.engines.device_stream import Lane
from synthclone.engines.spec import EngineSpec, Precision, QuantizedFormat

BackendName = Literal["tensorrt", "onnxruntime", "inductor", "eager"]
EXTRAS = {"tensorrt": "gpu", "onnxruntime": "cpu or gpu", "onnx": "cpu or gpu"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an engine is built from: a component in the precision that it is to run in."""

    module: nn.Module
    """Takes the spec's inputs in order as positional tensors and returns its one output; on the CPU, in eval mode."""
    config: Mapping[str, Any]
    """Plain data from which `make_module` makes the same module without its weights."""
    precision: Precision
    quantization: QuantizedFormat | None = None
    """What the products' inputs are rounded to in the ONNX graph; the module itself is not quantized."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """sha256 of whatever determines the result: the weights, the ONNX graph."""
    onnx: Path | None = None
    """The exported graph, its weights beside it; None for backends with `NEEDS_ONNX = False`."""
    program: Callable[[torch.device], torch.export.ExportedProgram] | None = None
    """Traces the component, on the device that is given, with the spec's dynamic axes; called by compiling backends."""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The build options of a backend that has none."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How an engine is to run; a backend ignores what it has no use for. Nothing here changes the plan or its key."""

    lane: Lane | None = None
    """Stream and scratch memory to share with the other engines on it, which then never run at the same time."""
    cuda_graphs: bool = False
    """Capture a call once for each set of sizes, and replay it: less work for the host at small batches."""
    trust_plan: bool = False
    """Load a plan that carries code of its own (a version-compatible TensorRT plan); only for plans of your own."""


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
    Options: type
    """A frozen dataclass of plain fields that all have defaults: what `build` can be told. It is part of the key."""

    def build(self, spec: EngineSpec, source: Source, out: Path, device: torch.device, options: Any) -> None:
        """Write the plan's files into the empty folder `out`; `options` is an `Options`."""

    def load(
        self,
        folder: Path,
        spec: EngineSpec,
        device: torch.device,
        make_module: Callable[[Any], nn.Module],
        runtime: Runtime,
    ) -> Engine:
        """Load the plan's files; never unpickles them, nor runs code that they bring along, unless `runtime.trust_plan`.

        The one exception is a backend whose plan is nothing but machine code (`inductor`).
        """

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


def make_options(backend: Backend, name: str, options: Mapping[str, Any]) -> Any:
    """The backend's `Options` from plain data.

    Raises:
        ValueError: an option that the backend does not have, or a value of the wrong type or outside its choices.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    valid = [field.name for field in dataclasses.fields(backend.Options)]
    for option in options:
        if option not in valid:
            raise ValueError(f"backend {name} has no option {option!r}; valid options: {', '.join(valid) or 'none'}")
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_class_arguments(backend.Options)
    try:
        typed = parser.parse_object(dict(options))
    except ArgumentError as error:
        raise ValueError(
            f"backend {name}: {' '.join(str(error).split())}; valid options: {', '.join(valid)}"
        ) from error
    return backend.Options(**vars(typed))


def plain(options: Any) -> dict[str, Any]:
    """An `Options` as it comes back from a manifest."""
    data: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(options)))
    return data


def mismatch(manifest: Mapping[str, Any], versions: Mapping[str, str], device: Mapping[str, str]) -> str | None:
    """Why a plan does not run with these versions on this device, or None. Here: unless all are the very same."""
    for made, recorded, here in (
        ("built with", manifest["versions"], versions),
        ("built for", manifest["device"], device),
    ):
        if recorded != here:
            return f"{made} {_pairs(recorded)}, but here is {_pairs(here)}"
    return None


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


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
