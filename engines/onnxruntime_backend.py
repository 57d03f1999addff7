"""ONNX Runtime on the CPU, on CUDA or on TensorRT through it; the plan is the ONNX graph with its weights beside it.

For a CPU the graph is in two parts (`onnx_split.py`) if it has inputs that stay the same over many calls.
How a plan runs is in `onnxruntime_cpu.py` and `onnxruntime_gpu.py`; what the providers are told, in
`onnxruntime_options.py`.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn

from synthclone.engines import files
from synthclone.engines.backend import Engine, Runtime, Source
from synthclone.engines.device_stream import make_lane
from synthclone.engines.onnx_safety import check_external_data
from synthclone.engines.onnx_split import KEPT, REST, split
from synthclone.engines.onnxruntime_cpu import CpuEngine, Sessions
from synthclone.engines.onnxruntime_gpu import GpuEngine
from synthclone.engines.onnxruntime_options import OnnxRuntimeOptions, missing_provider, plain_options, providers
from synthclone.engines.onnxruntime_session import open_session
from synthclone.engines.spec import EngineSpec

NEEDS_ONNX = True
Options = OnnxRuntimeOptions
MODEL = "model.onnx"


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
    # Not in 8 bits: a product whose two sides lie in different parts would be computed in fp32.
    kept = [item.name for item in spec.inputs if item.kept and source.quantization is None]
    if device.type == "cpu" and split(out / MODEL, kept):
        (out / MODEL).unlink()
    files.write_json(out / "options.json", asdict(options))


def load(
    folder: Path, spec: EngineSpec, device: torch.device, make_module: Callable[[Any], nn.Module], runtime: Runtime
) -> Engine:
    """Open a session.

    Raises:
        ValueError: the provider for the device is missing or does not start, or weights lie outside the folder.
        EngineError: ONNX Runtime does not take the graph.
    """
    options = plain_options(files.read_json(folder / "options.json"))
    if device.type == "cpu":
        return _load_on_cpu(folder, spec, device, options)
    check_external_data(folder / MODEL)
    lane = runtime.lane or make_lane(device)
    wanted = providers(options, spec, device, folder, stream=lane.handle, cuda_graphs=runtime.cuda_graphs)
    if missing := missing_provider(wanted, onnxruntime.get_available_providers()):
        raise ValueError(f"this ONNX Runtime has no {missing}; install `synthclone[gpu]`, or use --device cpu")
    session = open_session(folder / MODEL, wanted, torch.get_num_threads())
    # A provider that cannot start is only warned of, and the CPU takes its place.
    if session.get_providers()[0] != wanted[0][0]:
        raise ValueError(
            f"{wanted[0][0]} did not start (ONNX Runtime printed why); install the CUDA and cuDNN releases that "
            f"onnxruntime {onnxruntime.__version__} is built for, or use --device cpu"
        )
    return GpuEngine(session, spec, lane, cuda_graphs=runtime.cuda_graphs)


def _load_on_cpu(folder: Path, spec: EngineSpec, device: torch.device, options: OnnxRuntimeOptions) -> CpuEngine:
    wanted = providers(options, spec, device, folder)
    is_split = (folder / KEPT).is_file()
    for name in (KEPT, REST) if is_split else (MODEL,):
        check_external_data(folder / name)

    def open_sessions(num_threads: int) -> Sessions:
        kept = open_session(folder / KEPT, wanted, num_threads) if is_split else None
        return Sessions(kept=kept, rest=open_session(folder / (REST if is_split else MODEL), wanted, num_threads))

    return CpuEngine(open_sessions, spec, torch.get_num_threads())


def versions() -> dict[str, str]:
    """ONNX Runtime's version."""
    return {"onnxruntime": onnxruntime.__version__}
