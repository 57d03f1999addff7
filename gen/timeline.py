"""Where the time of a generation goes: spans of every stage, as a Chrome trace and as a table.

    synthclone generate ... --profile trace.json      # open it in chrome://tracing or ui.perfetto.dev

A span is what the host saw. On a GPU the U-Net's spans also carry events of its stream, because a launch returns long
before the work is done.
"""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from synthclone.engines import files
from synthclone.engines.backend import Engine
from synthclone.engines.spec import EngineSpec


@dataclass(frozen=True)
class Span:
    """One piece of work on one thread; seconds since the timeline began."""

    stage: str
    thread: str
    start_s: float
    end_s: float


@dataclass
class Timeline:
    """Spans of all threads, if they are to be kept: one costs a microsecond and a hundred bytes, and images are many."""

    recording: bool = False
    spans: list[Span] = field(default_factory=list)
    _began_s: float = field(default_factory=time.perf_counter)
    _device_spans: list[tuple[str, Any, Any]] = field(default_factory=list)
    _device_began: Any = None

    @contextmanager
    def span(self, stage: str) -> Iterator[None]:
        """Record the block."""
        if not self.recording:
            yield
            return
        start_s = time.perf_counter()
        try:
            yield
        finally:
            end_s = time.perf_counter()
            name = threading.current_thread().name
            self.spans.append(Span(stage, name, start_s - self._began_s, end_s - self._began_s))

    @contextmanager
    def device_span(self, stage: str, device: torch.device) -> Iterator[None]:
        """Record the block, on a GPU by events of the current stream, which `collect` turns into spans."""
        if device.type != "cuda" or not self.recording:
            with self.span(stage):
                yield
            return
        stream = torch.cuda.current_stream(device)
        if self._device_began is None:
            torch.cuda.synchronize(device)
            self._device_began = (stream.record_event(torch.cuda.Event(enable_timing=True)), time.perf_counter())
        before = stream.record_event(torch.cuda.Event(enable_timing=True))
        yield
        self._device_spans.append((stage, before, stream.record_event(torch.cuda.Event(enable_timing=True))))

    def collect(self) -> list[Span]:
        """All spans, by start; waits for what the device has still to do."""
        found = list(self.spans)
        for stage, before, after in self._device_spans:
            after.synchronize()
            event, began_s = self._device_began
            start_s = began_s - self._began_s + event.elapsed_time(before) / 1e3
            found.append(Span(stage, "device", start_s, start_s + before.elapsed_time(after) / 1e3))
        return sorted(found, key=lambda span: span.start_s)


@dataclass(frozen=True)
class TimedEngine:
    """An engine whose calls are spans."""

    engine: Engine
    timeline: Timeline

    @property
    def spec(self) -> EngineSpec:
        """The engine's."""
        return self.engine.spec

    @property
    def device(self) -> torch.device:
        """The engine's."""
        return self.engine.device

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Run once."""
        with self.timeline.device_span(self.spec.name, self.device):
            return self.engine(**inputs)


def busy_s(spans: list[Span], stage: str) -> float:
    """Seconds in which at least one span of the stage was running."""
    total = until = 0.0
    for span in sorted((span for span in spans if span.stage == stage), key=lambda span: span.start_s):
        total += max(0.0, span.end_s - max(span.start_s, until))
        until = max(until, span.end_s)
    return total


def wall_s(spans: list[Span]) -> float:
    """Seconds from the first span's start to the last one's end."""
    return max(span.end_s for span in spans) - min(span.start_s for span in spans) if spans else 0.0


def table(spans: list[Span]) -> str:
    """Stage, calls, seconds in all, mean milliseconds, and the share of the wall time in which it was running."""
    durations: dict[str, list[float]] = defaultdict(list)
    for span in spans:
        durations[span.stage].append(span.end_s - span.start_s)
    whole_s = wall_s(spans)
    lines = [f"{'stage':<14} {'calls':>8} {'total s':>9} {'mean ms':>9} {'of wall':>8}"]
    for stage, values in sorted(durations.items(), key=lambda item: -sum(item[1])):
        share = busy_s(spans, stage) / whole_s if whole_s else 0.0
        lines.append(
            f"{stage:<14} {len(values):>8} {sum(values):>9.2f} {1e3 * sum(values) / len(values):>9.2f} {share:>8.1%}"
        )
    return "\n".join([*lines, f"{'wall':<14} {'':>8} {whole_s:>9.2f}"])


def write_trace(spans: list[Span], path: Path) -> None:
    """Write the spans in Chrome's trace event format (complete events, microseconds)."""
    threads = {name: number for number, name in enumerate(dict.fromkeys(span.thread for span in spans))}
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": number, "args": {"name": name}}
        for name, number in threads.items()
    ]
    events += [
        {
            "ph": "X",
            "name": span.stage,
            "cat": "generate",
            "pid": 0,
            "tid": threads[span.thread],
            "ts": round(1e6 * span.start_s, 1),
            "dur": round(1e6 * (span.end_s - span.start_s), 1),
        }
        for span in spans
    ]
    files.write_bytes(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}).encode())
