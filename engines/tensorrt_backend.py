"""TensorRT 10.x and 11.x on an NVIDIA GPU: the plan, and what a later exchange of its weights must know.

Building is in `tensorrt_build.py`, running in `tensorrt_runtime.py`, new weights for a built engine in
`tensorrt_refit.py`. A plan runs only under the TensorRT build and on the GPU model that made it, unless it was built to
be compatible (see `tensorrt_options.py`).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt as trt
import torch
from torch import nn

from synthclone.engines import backend as backends
from synthclone.engines import files, onnx_digest
from synthclone.engines import tensorrt_timing as timing
from synthclone.engines.backend import Runtime, Source
from synthclone.engines.device_stream import make_lane
from synthclone.engines.onnx_operators import check_operators
from synthclone.engines.spec import EngineSpec
from synthclone.engines.tensorrt_build import build_plan
from synthclone.engines.tensorrt_options import TensorRTOptions, mismatch
from synthclone.engines.tensorrt_plan import open_plan, restore_weights
from synthclone.engines.tensorrt_runtime import TensorRTEngine

__all__ = ["NEEDS_ONNX", "Options", "build", "load", "mismatch", "versions"]

NEEDS_ONNX = True
Options = TensorRTOptions


def build(spec: EngineSpec, source: Source, out: Path, device: torch.device, options: TensorRTOptions) -> None:
    """Build the plan; the timing cache lies beside the engine's folder.

    Raises:
        EngineError: an operator that TensorRT lacks, or a build that fails; the message says why.
        KeyboardInterrupt: Ctrl-C during the build.
    """
    assert source.onnx is not None
    lane = make_lane(device)
    check_operators(source.onnx)
    identity = backends.device_identity(device)
    with lane.selected():
        plan = build_plan(spec, source.onnx, options, timing.path_beside(out.parent, identity), identity)
    with files.atomic(out / "plan.trt") as file:
        file.write(memoryview(plan))
    notes = {
        "graph": onnx_digest.graph_digest(source.onnx),
        "weights": onnx_digest.weights_digest(source.onnx),
        "source": dict(source.digests),
        "refittable": options.refittable,
        "stripped": options.strip_weights,
        "onnx": os.path.relpath(source.onnx, out.parent),  # so that engines and exports can move together
    }
    files.write_json(out / "tensorrt.json", notes)


def load(
    folder: Path, spec: EngineSpec, device: torch.device, make_module: Callable[[Any], nn.Module], runtime: Runtime
) -> TensorRTEngine:
    """Load the plan onto a lane; a plan without weights takes them from the ONNX file that it was built from.

    Raises:
        ValueError: not a CUDA device, or a lane of another device.
        EngineError: TensorRT does not take the plan; the message says why.
    """
    lane = runtime.lane or make_lane(device)
    if lane.device != device:
        raise ValueError(f"engine {spec.name} is to run on {device}, but the lane is on {lane.device}")
    with lane.selected():
        plan = open_plan(folder, spec, trust_plan=runtime.trust_plan)
        restore_weights(plan.engine, folder, spec)
        return TensorRTEngine(plan, spec, lane, cuda_graphs=runtime.cuda_graphs)


def versions() -> dict[str, str]:
    """TensorRT's exact version: plans and timing caches hold for no other."""
    return {"tensorrt": trt.__version__}
