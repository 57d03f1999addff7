"""A TensorRT build's progress as bars on the terminal, and Ctrl-C as a clean end of it.

TensorRT calls the monitor from its own threads and asks after each step whether to go on. A KeyboardInterrupt raised
inside such a call would end the process without clean-up, so Ctrl-C only sets a flag during a build: the next step
says stop, TensorRT returns, and the interrupt is raised then, by `interruptible`.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import tensorrt as trt
from tqdm import tqdm


class Progress(trt.IProgressMonitor):
    """One bar for each phase that is under way; phases nest, and overlap when TensorRT uses several threads."""

    def __init__(self, name: str) -> None:
        trt.IProgressMonitor.__init__(self)
        self.name = name
        self.cancelled = False
        self._bars: dict[str, tqdm] = {}
        self._lock = threading.Lock()

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        with self._lock:
            # disable=None: no bars where standard error is not a terminal.
            self._bars[phase_name] = tqdm(
                total=num_steps, desc=f"{self.name}: {phase_name}", leave=parent_phase is None, disable=None
            )

    def step_complete(self, phase_name: str, step: int) -> bool:
        with self._lock:
            bar = self._bars.get(phase_name)
            if bar is not None:
                bar.update(step + 1 - bar.n)
        return not self.cancelled

    def phase_finish(self, phase_name: str) -> None:
        with self._lock:
            bar = self._bars.pop(phase_name, None)
            if bar is not None:
                if not self.cancelled:
                    bar.update((bar.total or 0) - bar.n)
                bar.close()

    def close(self) -> None:
        """Take down the bars of phases that TensorRT left without finishing."""
        for name in list(self._bars):
            self.phase_finish(name)


@contextmanager
def interruptible(progress: Progress) -> Iterator[None]:
    """Let Ctrl-C cancel the build in the block; raises KeyboardInterrupt when the block has ended.

    Only Python's main thread receives signals; elsewhere the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cancel(number: int, frame: FrameType | None) -> None:
        progress.cancelled = True

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        progress.close()
    if progress.cancelled:
        raise KeyboardInterrupt
