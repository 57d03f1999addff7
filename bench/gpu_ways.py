"""The ways to run a component that `gpu_session.py` measures: eager, torch.compile, and each of our backends."""

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synthclone.bench import measure, published
from synthclone.engines import artifact, backend
from synthclone.engines.backend import Runtime, Source
from synthclone.engines.parity import relative_error
from synthclone.engines.spec import DTYPES, AxisRange, EngineSpec, Precision
from synthclone.export import components, graph

Tensors = dict[str, torch.Tensor]
Run = Callable[[Tensors], torch.Tensor]
NUM_REFERENCE_ROWS = 2
# What the libraries raise when one part cannot be had, mistakes of their own included: a session on a card that is lent
# is not to be lost to one of them. Out of memory and compile errors are RuntimeErrors.
PART_ERRORS = (RuntimeError, ValueError, ImportError, OSError, AssertionError, AttributeError, LookupError, TypeError)


@dataclass(frozen=True, kw_only=True)
class Component:
    """One component, and what it is measured with."""

    size: published.Size
    name: str
    precision: Precision
    batches: tuple[int, ...]
    device: torch.device
    work: Path

    def spec(self) -> EngineSpec:
        """Its signature, for all the batches."""
        middle = self.batches[len(self.batches) // 2]
        sizes = AxisRange(minimum=self.batches[0], optimum=middle, maximum=self.batches[-1])
        return published.spec_of(self.size, self.name, self.precision, sizes)

    @cached_property
    def module(self) -> nn.Module:
        """It in fp32 on the host; copy it before changing it."""
        return published.make(self.size, self.name)

    @cached_property
    def reference(self) -> nn.Module:
        """The same on the device, called with tensors of the host: the largest batches would take a host minutes."""
        return OnDevice(copy.deepcopy(self.module).to(self.device), self.device)

    def inputs(self, batch: int) -> Tensors:
        """Random inputs on the device."""
        found = self.spec().sample({"batch": batch}, seed=batch)
        return {name: value.to(self.device) for name, value in found.items()}

    def flop(self) -> int:
        """Floating-point operations of one call at the smallest batch."""
        with torch.device("meta"):
            module = published.make(self.size, self.name)
        return measure.count_flop(module, self.spec().sample({"batch": self.batches[0]}, seed=0).values())

    def error(self, output: torch.Tensor, batch: int) -> float:
        """Relative error of the first rows against fp32."""
        rows = min(batch, NUM_REFERENCE_ROWS)
        inputs = [value[:rows] for value in self.inputs(batch).values()]
        inputs = [value.float() if value.is_floating_point() else value for value in inputs]
        with torch.inference_mode():
            return float(f"{relative_error(output[:rows].float().cpu(), self.reference(*inputs)):.3e}")


class OnDevice(nn.Module):
    """A module that lives on a device and answers on the host, in full fp32."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.module, self.device = module, device

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        # cuDNN's convolutions round to TensorFloat-32 unless told otherwise.
        with torch.backends.cudnn.flags(allow_tf32=False):
            return self.module(*(value.to(self.device) for value in values)).cpu()


def _placed(component: Component) -> Any:
    module: Any = copy.deepcopy(component.module).to(component.device, DTYPES[component.precision])
    return module.to(memory_format=torch.channels_last)


def _called(module: Any) -> Run:
    @torch.inference_mode()
    def run(inputs: Tensors) -> torch.Tensor:
        return module(*inputs.values())

    return run


def _eager(component: Component) -> Run:
    return _called(_placed(component))


def _compiled(component: Component) -> Run:
    # One compilation for each batch: what torch.compile is best at, and what its users do.
    return _called(torch.compile(_placed(component), dynamic=False))


def _built(name: str, *, cuda_graphs: bool = False, **options: Any) -> Callable[[Component], Run]:
    """An engine of one of our backends, built through the parity gate."""

    def make(component: Component) -> Run:
        spec = component.spec()
        module = copy.deepcopy(component.module).to(DTYPES[component.precision])
        suffix = "-".join([name, *(f"{key}_{value}" for key, value in options.items())])
        folder = component.work / f"{component.name}-{component.precision}-{suffix}"
        onnx = None
        if backend.find(name).NEEDS_ONNX:
            onnx = component.work / "onnx" / f"{component.name}-{component.precision}" / "model.onnx"
            request = graph.GraphRequest(spec=spec, precision=component.precision, checkpoint_key=component.size)
            if graph.exported_digests(request, onnx.parent) is None:
                onnx.parent.parent.mkdir(parents=True, exist_ok=True)
                graph.export_onnx(component.module, request, onnx.parent)
        if not (folder / "manifest.json").is_file():
            source = Source(
                module=module,
                config={},
                precision=component.precision,
                digests={"checkpoint": f"random {component.size}"},
                onnx=onnx,
                program=lambda device: graph.compiler_program(module, spec, device),
            )
            artifact.build(
                spec,
                source,
                component.reference,
                backend=name,
                folder=folder,
                device=component.device,
                make_module=components.make_module,
                rebuild_command="python bench/gpu_session.py",
                options=options,
            )
        graphs = cuda_graphs and component.device.type == "cuda"
        engine = artifact.open_engine(
            folder,
            device=component.device,
            make_module=components.make_module,
            runtime=Runtime(cuda_graphs=graphs, trust_plan=True),
        )
        return lambda inputs: engine(**inputs)

    return make


WAYS: dict[str, Callable[[Component], Run]] = {
    "eager": _eager,
    "torch_compile": _compiled,
    "inductor": _built("inductor"),
    "inductor_max_autotune": _built("inductor", max_autotune=True),
    "onnxruntime": _built("onnxruntime"),
    "onnxruntime_cuda_graphs": _built("onnxruntime", cuda_graphs=True),
    "tensorrt": _built("tensorrt"),
    "tensorrt_cuda_graphs": _built("tensorrt", cuda_graphs=True),
}


def free(device: torch.device) -> None:
    """Give back what the last way held."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
