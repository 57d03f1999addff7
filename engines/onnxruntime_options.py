"""What ONNX Runtime is told about providers: pure functions from our options to its strings. Needs no ONNX Runtime.

The names are those of the CUDA and TensorRT execution providers' documentation (onnxruntime.ai/docs/execution-providers).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from synthclone.engines.spec import EngineSpec

GpuProvider = Literal["cuda", "tensorrt"]
ConvolutionSearch = Literal["exhaustive", "heuristic", "default"]
Providers = list[tuple[str, dict[str, str]]]


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeOptions:
    """How ONNX Runtime runs a graph on a GPU; on a CPU there is nothing to choose."""

    gpu_provider: GpuProvider = "cuda"
    """What runs the nodes: cuDNN and cuBLAS, or TensorRT engines, which are then kept inside the plan's folder."""
    convolution_search: ConvolutionSearch = "exhaustive"
    """How cuDNN's convolutions are chosen: by timing all, by heuristics, or the default one; timed once for each size."""
    tf32: bool = False
    """Round the inputs of fp32 products to TensorFloat-32: faster, with errors of 1e-3 instead of 1e-6."""

    def __post_init__(self) -> None:
        for name, valid in (
            ("gpu_provider", get_args(GpuProvider)),
            ("convolution_search", get_args(ConvolutionSearch)),
        ):
            value = getattr(self, name)
            if value not in valid:
                raise ValueError(f"{name} {value!r} is not one of {', '.join(valid)}")


def providers(
    options: OnnxRuntimeOptions,
    spec: EngineSpec,
    device: torch.device,
    folder: Path,
    *,
    stream: int = 0,
    cuda_graphs: bool = False,
) -> Providers:
    """The providers with their options, in order of preference.

    Args:
        options: what was asked for when the plan was built.
        spec: signature and ranges, from which TensorRT's profile is made.
        device: where the engine runs.
        folder: the plan's folder; TensorRT's engines are kept in it.
        stream: the CUDA stream to put all work on, as an address.
        cuda_graphs: capture each set of sizes once.

    Raises:
        ValueError: TensorRT on a device that is no GPU.
    """
    if device.type == "cpu":
        if options.gpu_provider == "tensorrt":
            raise ValueError("gpu_provider tensorrt needs --device cuda; on a CPU leave it at cuda, which is not used")
        return [("CPUExecutionProvider", {})]
    common = {"device_id": str(device.index or 0), "user_compute_stream": str(stream)}
    cuda = {
        **common,
        "cudnn_conv_algo_search": options.convolution_search.upper(),
        "cudnn_conv_use_max_workspace": "1",
        "use_tf32": _flag(options.tf32),
        # With TensorRT in front, that is what captures.
        "enable_cuda_graph": _flag(cuda_graphs and options.gpu_provider == "cuda"),
        # Growing by what is asked for, not by powers of two: PyTorch's allocator lives on the same GPU.
        "arena_extend_strategy": "kSameAsRequested",
    }
    found: Providers = [("CUDAExecutionProvider", cuda)]
    if options.gpu_provider == "tensorrt":
        found.insert(0, ("TensorrtExecutionProvider", {**common, **_tensorrt(spec, folder, cuda_graphs)}))
    return found


def _tensorrt(spec: EngineSpec, folder: Path, cuda_graphs: bool) -> dict[str, str]:
    precision = spec.outputs[0].dtype
    return {
        # The engine is built when the plan is first loaded, for the parity gate, and so is in the plan's manifest. No
        # timing cache there: it is written again at every load, and the manifest would no longer fit.
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder.resolve()),
        "trt_timing_cache_enable": "0",
        "trt_fp16_enable": _flag(precision == "fp16"),
        "trt_bf16_enable": _flag(precision == "bf16"),
        "trt_cuda_graph_enable": _flag(cuda_graphs),
        # Without a profile for the whole range TensorRT builds anew, for minutes, whenever a batch is larger than before.
        "trt_profile_min_shapes": _shapes(spec, spec.sizes("minimum")),
        "trt_profile_opt_shapes": _shapes(spec, spec.sizes("optimum")),
        "trt_profile_max_shapes": _shapes(spec, spec.sizes("maximum")),
    }


def _shapes(spec: EngineSpec, sizes: Mapping[str, int]) -> str:
    return ",".join(f"{tensor.name}:{'x'.join(map(str, tensor.shape(sizes)))}" for tensor in spec.inputs)


def _flag(value: bool) -> str:
    return "1" if value else "0"


def missing_provider(wanted: Providers, available: list[str]) -> str | None:
    """The first provider that this build of ONNX Runtime lacks, or None."""
    return next((name for name, _ in wanted if name not in available), None)


def plain_options(data: Mapping[str, Any]) -> OnnxRuntimeOptions:
    """The options from a plan's own file."""
    return OnnxRuntimeOptions(**data)
