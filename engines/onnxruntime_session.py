"""ONNX Runtime sessions that read and write PyTorch's memory where it lies; their errors in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as state

from synthclone.engines.artifact import EngineError
from synthclone.engines.onnxruntime_options import Providers
from synthclone.engines.spec import TensorSpec

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
    RuntimeError,  # of what is wrong with the inputs
)


def open_session(path: Path, providers: Providers, num_threads: int) -> onnxruntime.InferenceSession:
    """A session of a graph.

    Raises:
        EngineError: ONNX Runtime does not take it.
    """
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = num_threads
    # Spinning threads starve the JPEG writers and the other components' sessions.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=providers)
    except FAILURES as error:
        raise EngineError(f"ONNX Runtime does not take the graph: {_one_line(error)}") from error


def bind_input(binding: Any, spec: TensorSpec, value: torch.Tensor) -> None:
    """Have an input read from a contiguous tensor."""
    element, shape = ELEMENT_TYPES[spec.dtype], tuple(value.shape)
    binding.bind_input(spec.name, value.device.type, value.device.index or 0, element, shape, value.data_ptr())


def bind_output(binding: Any, spec: TensorSpec, value: torch.Tensor) -> None:
    """Have the output written to a contiguous tensor."""
    element, shape = ELEMENT_TYPES[spec.dtype], tuple(value.shape)
    binding.bind_output(spec.name, value.device.type, value.device.index or 0, element, shape, value.data_ptr())


@contextmanager
def told_in_one_line(engine: str) -> Iterator[None]:
    """Turn a failing run into an `EngineError`."""
    try:
        yield
    except FAILURES as error:
        raise EngineError(f"engine {engine} failed in ONNX Runtime: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
