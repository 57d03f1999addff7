"""All that is to be measured on a GPU, in one call: each component of Stable Diffusion 1.4, several ways, at several batches.

    python bench/gpu_session.py                                  everything, on the first CUDA device
    python bench/gpu_session.py --quick                          fewer runs, batches 1 and 4
    python bench/gpu_session.py --size tiny --device cpu         a rehearsal without a GPU

Every part is caught on its own: one that fails leaves its error in the answer and the others go on. Engines are built
through the same backends as `synthclone build`, by way of the parity gate. Components have random weights
(`published.py`). Ends with one JSON line; `--record` writes it after every part too, so that a session that is cut off
loses one part. Making the ways is left to `gpu_ways.py`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from synthclone.bench import gpu_generation, gpu_ways, measure, published
from synthclone.bench.gpu_ways import WAYS, Component
from synthclone.engines import backend, files
from synthclone.engines.backend import BackendName
from synthclone.engines.command import run
from synthclone.engines.spec import DTYPES, Precision
from synthclone.export.components import ENGINES

LARGEST_GENERATED = 16
"""Images per batch of whole generations: 64 of them take a minute a batch and say no more."""


@dataclass(frozen=True, kw_only=True)
class GpuSessionConfig:
    """Measure each component of Stable Diffusion on a GPU, in every way that there is."""

    size: published.Size = "sd14"
    """sd14 (the published sizes), small or tiny."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Precision = "fp16"
    """Precision of weights and activations; on a CPU give fp32 or bf16."""
    batches: str = "1,4,16,64"
    """Batches of each component, separated by commas; engines are built for the whole range."""
    generation: bool = True
    """Measure whole generations as well, against diffusers' pipeline (`gpu_generation.py`)."""
    ways: str = ",".join(WAYS)
    """Which ways to measure, separated by commas."""
    components: str = ",".join(ENGINES)
    """Which components to measure, separated by commas."""
    num_warmup: int = 5
    """Calls before each measurement, not counted."""
    num_runs: int = 20
    """Calls that are timed."""
    quick: bool = False
    """Batches 1 and 4 only, two calls to warm up and five that count."""
    work: Path | None = None
    """Folder for graphs and engines, kept for the next time; None: temporary."""
    record: Path | None = None
    """Where the answer goes besides the screen."""

    def __post_init__(self) -> None:
        for name, valid in (("ways", tuple(WAYS)), ("components", ENGINES)):
            for word in getattr(self, name).split(","):
                if word not in valid:
                    raise ValueError(f"{name}: unknown {word!r}; valid: {', '.join(valid)}")
        if not all(word.isdigit() and int(word) > 0 for word in self.batches.split(",")):
            raise ValueError(f"batches {self.batches!r} are not whole numbers with commas between, such as 1,4,16,64")

    def sizes(self) -> list[int]:
        """The batches, rising."""
        return [1, 4] if self.quick else sorted({int(word) for word in self.batches.split(",")})

    def counts(self) -> tuple[int, int]:
        """Calls to warm up, and calls that count."""
        return (2, 5) if self.quick else (self.num_warmup, self.num_runs)


def main(config: GpuSessionConfig) -> None:
    """Measure everything."""
    device = backend.pick_device(config.device)
    if config.work is not None:
        config.work.mkdir(parents=True, exist_ok=True)
        _session(config, device, config.work)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _session(config, device, Path(folder))


def _session(config: GpuSessionConfig, device: torch.device, work: Path) -> None:
    dtype, start_s = DTYPES[config.precision], time.perf_counter()
    answer: dict[str, Any] = {
        "benchmark": "gpu_session",
        "size": config.size,
        "precision": config.precision,
        "machine": measure.machine(device),
        "matmul_peak_tflops": _caught(lambda: round(_peak_gflops(dtype, device) / 1e3, 3)),
        "parts": [],
    }
    for name in config.components.split(","):
        component = Component(
            size=config.size,
            name=name,
            precision=config.precision,
            batches=tuple(config.sizes()),
            device=device,
            work=work,
        )
        flop = _caught(component.flop)
        per_row = flop / component.batches[0] if isinstance(flop, int) else None
        for way in config.ways.split(","):
            found = _caught(lambda component=component, way=way: _measure_way(config, component, way))
            part = {"component": name, "way": way, **(found if "failed" in found else {"batches": found})}
            for batch, entry in part.get("batches", {}).items():
                if "median_ms" in entry and per_row is not None:
                    entry["tflops"] = round(per_row * int(batch) / entry["median_ms"] / 1e9, 3)
            answer["parts"].append(part)
            print(json.dumps(part), file=sys.stderr, flush=True)
            gpu_ways.free(device)
            answer["seconds"] = round(time.perf_counter() - start_s, 1)
            if config.record is not None:
                files.write_json(config.record, answer)
    if config.generation:
        answer["generation"] = _caught(lambda: _generation(config, device, work / "generation"))
        if config.record is not None:
            files.write_json(config.record, answer)
    print(json.dumps(answer))


def _generation(config: GpuSessionConfig, device: torch.device, work: Path) -> list[dict[str, Any]]:
    """Whole generations through every backend that is among the ways."""
    names = [name for name in get_args(BackendName) if name in config.ways.split(",") and name != "eager"]
    work.mkdir(parents=True, exist_ok=True)
    options = gpu_generation.GpuGenerationConfig(
        size=config.size,
        precision=config.precision,
        backends=",".join(names),
        batches=",".join(str(batch) for batch in config.sizes() if batch <= LARGEST_GENERATED),
        steps=5 if config.quick else 50,
    )
    return gpu_generation.measure_all(options, device, work)


def _peak_gflops(dtype: torch.dtype, device: torch.device) -> float:
    return measure.matmul_peak_gflops(dtype, device, size=8192 if device.type == "cuda" else 1024)


def _measure_way(config: GpuSessionConfig, component: Component, way: str) -> dict[str, Any]:
    """One way of running one component, at every batch."""
    start_s = time.perf_counter()
    call = WAYS[way](component)
    made_s = round(time.perf_counter() - start_s, 1)
    found: dict[str, Any] = {}
    for batch in component.batches:
        found[str(batch)] = _caught(lambda batch=batch: _measure_batch(config, component, call, batch))
        found[str(batch)]["made_s"] = made_s
    return found


def _measure_batch(config: GpuSessionConfig, component: Component, call: gpu_ways.Run, batch: int) -> dict[str, Any]:
    """Times and error of one batch."""
    device, (num_warmup, num_runs) = component.device, config.counts()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    inputs = component.inputs(batch)
    output = call(inputs)
    found = measure.times_ms(lambda: call(inputs), device, num_warmup=num_warmup, num_runs=num_runs)
    return {
        **measure.summary(found),
        "relative_error": component.error(output, batch),
        "peak_memory_gib": round(measure.peak_memory_bytes(device) / 2**30, 2),
    }


def _caught(part: Any) -> Any:
    """What a part gives, or its error as text."""
    try:
        return part()
    except gpu_ways.PART_ERRORS as error:
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(GpuSessionConfig, main, prog="bench/gpu_session.py", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
