"""Everything that a compiled engine's runtime needs of the device itself: a stream, scratch memory, graph capture.

A lane is one stream and one block of scratch memory. Engines on the same lane (text encoder, U-Net, VAE) run one after
another, because a stream is in order; so the block, as large as the largest needs, serves them all. Work is ordered
against the caller's stream by events: the host never waits.

`LANES` finds the lane of a device's kind. Only CUDA is here. What runs on it is left to the backends.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch


class Lane(Protocol):
    """A stream with its scratch memory."""

    device: torch.device
    alignment_bytes: int
    """What the addresses that engines are given must be a multiple of."""

    @property
    def handle(self) -> int:
        """The stream as libraries take it."""

    def turn(self) -> AbstractContextManager[None]:
        """Queue work: after all that the caller's current stream holds, and before all that it will be given."""

    def block(self, size_bytes: int) -> torch.Tensor:
        """Scratch memory of at least that size. A larger demand moves the block, and with it every address in it."""

    def capture(self, queue: Callable[[], None]) -> Callable[[], None]:
        """Record what `queue` puts on the stream, without running it; returns what runs it again. Inside a turn."""

    def drain(self) -> None:
        """Make the host wait for the lane; for taking down what it may still use, never in a loop."""

    def selected(self) -> AbstractContextManager[None]:
        """Make the lane's device the current one, for libraries that build and load on that."""


class CudaLane:
    """A lane on an NVIDIA GPU."""

    # NvInferRuntime.h, IExecutionContext::setTensorAddress: "must have at least 256-byte alignment".
    alignment_bytes = 256

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self._block = torch.empty(0, dtype=torch.uint8, device=device)
        self._lock = threading.RLock()

    @property
    def handle(self) -> int:
        return self.stream.cuda_stream

    @contextmanager
    def turn(self) -> Iterator[None]:
        # The lock keeps two host threads from interleaving the addresses they set with the launches they belong to.
        with self._lock:
            caller = torch.cuda.current_stream(self.device)
            self.stream.wait_stream(caller)
            try:
                with torch.cuda.stream(self.stream):
                    yield
            finally:
                # Tensors that the caller frees from here on are reused on its stream only after the lane has read
                # them, which is why no `record_stream` is needed.
                caller.wait_stream(self.stream)

    def block(self, size_bytes: int) -> torch.Tensor:
        if self._block.numel() < size_bytes:
            # Allocated on the lane's stream: the allocator gives the old block away only behind the work that uses it.
            with torch.cuda.stream(self.stream):
                self._block = torch.empty(size_bytes, dtype=torch.uint8, device=self.device)
        return self._block

    def capture(self, queue: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: data loaders in other threads may allocate while this one captures.
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            queue()
        return graph.replay

    def drain(self) -> None:
        self.stream.synchronize()

    @contextmanager
    def selected(self) -> Iterator[None]:
        with torch.cuda.device(self.device):
            yield


LANES: dict[str, Callable[[torch.device], Lane]] = {"cuda": CudaLane}


def make_lane(device: torch.device) -> Lane:
    """A new lane on a device.

    Raises:
        ValueError: compiled engines of this kind do not run on the device.
    """
    if device.type not in LANES:
        raise ValueError(
            f"device {device} cannot run TensorRT engines; use --device {' or '.join(LANES)}, "
            "or --backend onnxruntime, which runs on a CPU too"
        )
    return LANES[device.type](device)
