"""ONNX Runtime on the CPU or on CUDA; the plan is the ONNX graph with its weights beside it.

On CUDA, inputs and outputs are bound to PyTorch's own memory, so nothing is copied to the host.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn

from synthclone.engines.backend import NoOptions, Runtime, Source
from synthclone.engines.spec import DTYPES, EngineSpec

NEEDS_ONNX = True
Options = NoOptions
ELEMENT_TYPES = {"fp32": 1, "uint8": 2, "int32": 6, "int64": 7, "fp16": 10, "bf16": 16}  # onnx.TensorProto.DataType


class OnnxRuntimeEngine:
    """An ONNX Runtime session behind the engine interface."""

    def __init__(self, session: onnxruntime.InferenceSession, spec: EngineSpec, device: torch.device) -> None:
        self.session, self.spec, self.device = session, spec, device

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        sizes = self.spec.check(inputs)
        output_spec = self.spec.outputs[0]
        output = torch.empty(output_spec.shape(sizes), dtype=DTYPES[output_spec.dtype], device=self.device)
        binding = self.session.io_binding()
        kind, index = self.device.type, self.device.index or 0
        held = [(spec, inputs[spec.name].contiguous()) for spec in self.spec.inputs]
        for spec, value in held:
            binding.bind_input(spec.name, kind, index, ELEMENT_TYPES[spec.dtype], tuple(value.shape), value.data_ptr())
        shape = tuple(output.shape)
        binding.bind_output(output_spec.name, kind, index, ELEMENT_TYPES[output_spec.dtype], shape, output.data_ptr())
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        self.session.run_with_iobinding(binding)
        return output


def build(spec: EngineSpec, source: Source, out: Path, device: torch.device, options: NoOptions) -> None:
    """Copy the graph and its weights."""
    assert source.onnx is not None
    for path in source.onnx.parent.glob(source.onnx.name + "*"):
        shutil.copy2(path, out / path.name)


def load(
    folder: Path, spec: EngineSpec, device: torch.device, make_module: Callable[[Any], nn.Module], runtime: Runtime
) -> OnnxRuntimeEngine:
    """Open a session.

    Raises:
        ValueError: this build of ONNX Runtime has no provider for the device.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Spinning threads starve the JPEG writers and the other component's session.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device.type]
    if provider not in onnxruntime.get_available_providers():
        raise ValueError(f"this ONNX Runtime has no {provider}; install `synthclone[gpu]`, or use --device cpu")
    providers = [(provider, {"device_id": str(device.index or 0)} if device.type == "cuda" else {})]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=providers)
    return OnnxRuntimeEngine(session, spec, device)


def versions() -> dict[str, str]:
    """ONNX Runtime's version."""
    return {"onnxruntime": onnxruntime.__version__}
