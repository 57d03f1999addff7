"""ONNX Runtime on the CPU, on CUDA or on TensorRT through it; the plan is the ONNX graph with its weights beside it.

On a GPU, inputs and outputs are bound to PyTorch's own memory and run on a lane's stream: nothing is copied to the
host, and the host waits for nothing. With `Runtime(cuda_graphs=True)` every set of sizes has fixed addresses, and ONNX
Runtime replays it from its third call on. What the providers are told is in `onnxruntime_options.py`.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as state
from torch import nn

from synthclone.engines import files
from synthclone.engines.artifact import EngineError
from synthclone.engines.backend import Runtime, Source
from synthclone.engines.device_stream import Lane, make_lane
from synthclone.engines.onnx_safety import check_external_data
from synthclone.engines.onnxruntime_options import OnnxRuntimeOptions, missing_provider, plain_options, providers
from synthclone.engines.spec import DTYPES, EngineSpec

NEEDS_ONNX = True
Options = OnnxRuntimeOptions
ELEMENT_TYPES = {"fp32": 1, "uint8": 2, "int32": 6, "int64": 7, "fp16": 10, "bf16": 16}  # onnx.TensorProto.DataType
# ONNX Runtime's own errors have no common class but Exception.
FAILURES = (
    state.EPFail,
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoSuchFile,
    state.NotImplemented,
    state.RuntimeException,
)
NO_GRAPH = "-1"  # the graph id that ONNX Runtime takes for "run, and capture nothing"


class OnnxRuntimeEngine:
    """An ONNX Runtime session behind the engine interface."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        spec: EngineSpec,
        device: torch.device,
        lane: Lane | None = None,
        *,
        cuda_graphs: bool = False,
    ) -> None:
        self.session, self.spec, self.device, self.lane, self.cuda_graphs = session, spec, device, lane, cuda_graphs
        self._fixed: dict[tuple[int, ...], tuple[list[torch.Tensor], torch.Tensor, Any, Any]] = {}

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        sizes = self.spec.check(inputs)
        values = [inputs[spec.name].contiguous() for spec in self.spec.inputs]
        if self.cuda_graphs and self.lane is not None:
            return self._replay(self.lane, sizes, values)
        # Made outside the lane's turn, so that the memory belongs to the caller's stream.
        output = self._output(sizes)
        binding = self._bind(values, output)
        if self.lane is None:
            self._run(binding)
        else:
            with self.lane.turn():
                self._run(binding, _run_options(NO_GRAPH))
        return output

    def _replay(self, lane: Lane, sizes: Mapping[str, int], values: list[torch.Tensor]) -> torch.Tensor:
        """Run at the addresses that belong to these sizes."""
        key = tuple(sizes.values())
        if key not in self._fixed:
            held, fixed_output = [value.clone() for value in values], self._output(sizes)
            binding = self._bind(held, fixed_output)
            self._fixed[key] = (held, fixed_output, binding, _run_options(str(len(self._fixed) + 1)))
        held, fixed_output, binding, run_options = self._fixed[key]
        output = torch.empty_like(fixed_output)
        with lane.turn():
            for fixed, value in zip(held, values, strict=True):
                fixed.copy_(value)
            self._run(binding, run_options)
            output.copy_(fixed_output)
        return output

    def _run(self, binding: Any, options: Any = None) -> None:
        try:
            self.session.run_with_iobinding(binding, options)
        except FAILURES as error:
            raise EngineError(f"engine {self.spec.name} failed in ONNX Runtime: {_one_line(error)}") from error

    def _output(self, sizes: Mapping[str, int]) -> torch.Tensor:
        spec = self.spec.outputs[0]
        return torch.empty(spec.shape(sizes), dtype=DTYPES[spec.dtype], device=self.device)

    def _bind(self, values: list[torch.Tensor], output: torch.Tensor) -> Any:
        """A binding that reads and writes PyTorch's memory where it lies."""
        binding = self.session.io_binding()
        kind, index = self.device.type, self.device.index or 0
        for spec, value in zip(self.spec.inputs, values, strict=True):
            binding.bind_input(spec.name, kind, index, ELEMENT_TYPES[spec.dtype], tuple(value.shape), value.data_ptr())
        spec, shape = self.spec.outputs[0], tuple(output.shape)
        binding.bind_output(spec.name, kind, index, ELEMENT_TYPES[spec.dtype], shape, output.data_ptr())
        return binding


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _run_options(graph_id: str) -> Any:
    """Options of one run on a lane. Names: onnxruntime_run_options_config_keys.h."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", graph_id)
    return options


def build(spec: EngineSpec, source: Source, out: Path, device: torch.device, options: OnnxRuntimeOptions) -> None:
    """Copy the graph and its weights, and note the options.

    Raises:
        ValueError: options that do not fit the device, or weights outside the graph's folder.
    """
    assert source.onnx is not None
    check_external_data(source.onnx)
    providers(options, spec, device, out)
    for path in source.onnx.parent.glob(source.onnx.name + "*"):
        shutil.copy2(path, out / path.name)
    files.write_json(out / "options.json", asdict(options))


def load(
    folder: Path, spec: EngineSpec, device: torch.device, make_module: Callable[[Any], nn.Module], runtime: Runtime
) -> OnnxRuntimeEngine:
    """Open a session.

    Raises:
        ValueError: the provider for the device is missing or does not start, or weights lie outside the folder.
        EngineError: ONNX Runtime does not take the graph.
    """
    check_external_data(folder / "model.onnx")
    options = plain_options(files.read_json(folder / "options.json"))
    lane = runtime.lane or make_lane(device) if device.type == "cuda" else None
    stream = lane.handle if lane is not None else 0
    wanted = providers(options, spec, device, folder, stream=stream, cuda_graphs=runtime.cuda_graphs)
    if missing := missing_provider(wanted, onnxruntime.get_available_providers()):
        raise ValueError(f"this ONNX Runtime has no {missing}; install `synthclone[gpu]`, or use --device cpu")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    # Spinning threads starve the JPEG writers and the other component's session.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), settings, providers=wanted)
    except FAILURES as error:
        raise EngineError(f"ONNX Runtime does not take the graph: {_one_line(error)}") from error
    # A provider that cannot start is only warned of, and the CPU takes its place.
    if session.get_providers()[0] != wanted[0][0]:
        raise ValueError(
            f"{wanted[0][0]} did not start (ONNX Runtime printed why); install the CUDA and cuDNN releases that "
            f"onnxruntime {onnxruntime.__version__} is built for, or use --device cpu"
        )
    return OnnxRuntimeEngine(session, spec, device, lane, cuda_graphs=runtime.cuda_graphs)


def versions() -> dict[str, str]:
    """ONNX Runtime's version."""
    return {"onnxruntime": onnxruntime.__version__}
