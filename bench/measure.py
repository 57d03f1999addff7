"""What every benchmark needs: timing with warm-up, the machine's own ceiling, floating-point work, and the record.

On a GPU time is taken by events, on a CPU by the clock. A ceiling is measured, not looked up: the fastest square matrix
product that PyTorch reaches here.
"""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")


def times_ms(run: Callable[[], Any], device: torch.device, *, num_warmup: int, num_runs: int) -> list[float]:
    """Milliseconds of each of `num_runs` calls, after `num_warmup` that are not counted."""
    for _ in range(num_warmup):
        run()
    if device.type != "cuda":
        found = []
        for _ in range(num_runs):
            start_s = time.perf_counter()
            run()
            found.append(1e3 * (time.perf_counter() - start_s))
        return found
    torch.cuda.synchronize(device)
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(num_runs)]
    for before, after in pairs:
        before.record()
        run()
        after.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) for before, after in pairs]


def summary(found_ms: Iterable[float]) -> dict[str, float]:
    """Median and spread of times in milliseconds."""
    values = sorted(found_ms)
    return {
        "median_ms": round(statistics.median(values), 3),
        "min_ms": round(values[0], 3),
        "max_ms": round(values[-1], 3),
        "num_runs": len(values),
    }


def matmul_peak_gflops(dtype: torch.dtype, device: torch.device, *, size: int = 2048, num_runs: int = 10) -> float:
    """The fastest of some square matrix products, in GFLOP/s."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    fastest_ms = min(times_ms(lambda: left @ right, device, num_warmup=3, num_runs=num_runs))
    return round(2 * size**3 / fastest_ms / 1e6, 1)


def count_flop(module: nn.Module, inputs: Iterable[torch.Tensor]) -> int:
    """Floating-point operations of one call, a multiplication and an addition counted as two; needs no memory."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.to("meta")(*(value.to("meta") for value in inputs))
    return counter.get_total_flops()


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has held: resident on the host, or allocated by PyTorch on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers belong to: processor, memory, load, device, and the versions of all libraries."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found: dict[str, Any] = {
        "processor": names[0] if names else platform.processor(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def versions() -> dict[str, str]:
    """Versions of the installed libraries that matter here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
