"""A lane on the CPU for the double: calls run at once, captured ones when they are replayed."""

import threading
from contextlib import contextmanager

import torch

from tensorrt_double.base import STATE
from tensorrt_double.running import ALIGNMENT_BYTES


class HostLane:
    alignment_bytes = ALIGNMENT_BYTES
    handle = 7

    def __init__(self, device):
        self.device, self.events, self._lock = device, [], threading.RLock()
        self._block = torch.empty(0, dtype=torch.uint8)
        self.captures = self.replays = self.drains = 0

    @contextmanager
    def turn(self):
        with self._lock:
            self.events.append("lane waits for caller")
            yield
            self.events.append("caller waits for lane")

    def block(self, size_bytes):
        if self._block.numel() < size_bytes:
            self._block = torch.empty(size_bytes, dtype=torch.uint8)
        return self._block

    def capture(self, queue):
        self.captures += 1
        STATE.capturing = launches = []
        try:
            queue()
        finally:
            STATE.capturing = None

        def replay():
            self.replays += 1
            for launch in launches:
                launch()

        return replay

    def drain(self):
        self.drains += 1

    @contextmanager
    def selected(self):
        yield
