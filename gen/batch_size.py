"""The largest batch that fits into memory, found by trying: doubled until it does not fit, then halved in between.

A trial opens the engines, runs the U-Net (with guidance's doubled rows) and the decoder once, and looks at the most memory
that was taken beyond what was taken before. Each has engines of its own, because runtimes keep what they once took.
"""

import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from synthclone.engines.artifact import EngineError
from synthclone.export.pipeline import Pipeline

POLL_S = 0.002
LACK_OF_MEMORY = ("memory", "alloc")
"""In the words of PyTorch, CUDA, TensorRT and ONNX Runtime, which have no class of errors for it."""


def largest_batch(fits: Callable[[int], bool], smallest: int, largest: int) -> int:
    """The largest batch for which `fits` holds, by doubling and then bisecting.

    Raises:
        ValueError: not even the smallest fits.
    """
    if not fits(smallest):
        raise ValueError(
            f"a batch of {smallest}, the engines' smallest, takes more than --memory-limit; raise it, or build engines "
            "with a smaller --batch, or for a smaller size"
        )
    good, bad = smallest, largest + 1
    while good < largest and bad > largest:
        trial = min(2 * good, largest)
        good, bad = (trial, bad) if fits(trial) else (good, trial)
    while bad - good > 1:
        trial = (good + bad) // 2
        good, bad = (trial, bad) if fits(trial) else (good, trial)
    return good


def fitting_batch(
    open_engines: Callable[[], Pipeline], limit_bytes: float, *, guided: bool, height: int, width: int
) -> int:
    """The most images per batch with which the engines, weights and all, take at most `limit_bytes`.

    Raises:
        ValueError: not even the engines' smallest batch fits.
    """
    pipeline = open_engines()
    span, pixels, device = pipeline.batches, pipeline.pixels(height, width), pipeline.device
    del pipeline

    def fits(batch: int) -> bool:
        """Whether engines that make one U-Net call and one decoder call stay below the limit."""

        def run() -> None:
            pipeline = open_engines()
            rows = 2 * batch if guided else batch
            for engine, count in ((pipeline.unet, rows), (pipeline.vae_decoder, batch)):
                sizes = {**engine.spec.sizes("optimum"), **pixels, "batch": count}
                inputs = engine.spec.sample(sizes, seed=0)
                engine(**{name: value.to(device) for name, value in inputs.items()})

        try:
            taken = memory_taken(run, device)
        except (EngineError, MemoryError, RuntimeError) as error:
            if not is_lack_of_memory(error):
                raise
            print(f"batch {batch}: {error}", file=sys.stderr)
            return False
        print(f"batch {batch}: {taken / 2**30:.2f} GiB", file=sys.stderr)
        return taken <= limit_bytes

    return largest_batch(fits, span.minimum, span.maximum)


def is_lack_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may do."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in LACK_OF_MEMORY)


def memory_taken(run: Callable[[], None], device: torch.device) -> int:
    """The most bytes that were taken at a time during a call, beyond those taken before."""
    return _taken_on_gpu(run, device) if device.type == "cuda" else _taken_on_host(run)


def _taken_on_host(run: Callable[[], None]) -> int:
    """By the kernel's own high-water mark of this process (proc(5): "5" in clear_refs brings it down to what is resident)."""
    gc.collect()
    with suppress(AttributeError):  # glibc's; what its heap has free would be taken again without a trace
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _process_bytes("VmHWM")
    run()
    return _process_bytes("VmHWM") - before


def _process_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def _taken_on_gpu(run: Callable[[], None], device: torch.device) -> int:
    """By asking the driver every 2 ms: engines allocate through libraries of their own."""

    def taken() -> int:
        free, total = torch.cuda.mem_get_info(device)
        return total - free

    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = most = taken()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(POLL_S):
            most = max(most, taken())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        run()
        torch.cuda.synchronize(device)
        most = max(most, taken())
    finally:
        done.set()
        watcher.join()
    return most - before
