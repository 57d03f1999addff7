"""Whole generations on a GPU: images/s of `synthclone generate` against diffusers' pipeline, eager and with torch.compile.

    python bench/gpu_generation.py --backends inductor,onnxruntime --batches 1,16 --work DIR --record FILE
    python bench/gpu_generation.py --size tiny --device cpu --precision fp32 --batches 2 --steps 3     a rehearsal

Stable Diffusion 1.4 at its published size with random weights (`published.py`). Ours is measured from the plan to shards on
disk, diffusers only to arrays. `tflops` is the work of the images over the time, to be held against the device's own
matrix peak. `gpu_session.py` runs this last; each way is caught on its own. Ends with one JSON line.
"""

import contextlib
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from synthclone.bench import gpu_ways, measure, published
from synthclone.bench.generation import diffusers_pipeline, diffusers_way, make_set
from synthclone.engines import backend, files
from synthclone.engines.command import run
from synthclone.engines.spec import Precision
from synthclone.export import build
from synthclone.gen import cost
from synthclone.gen.config import GenerateConfig, make_plan


@dataclass(frozen=True, kw_only=True)
class GpuGenerationConfig:
    """Measure whole generations against diffusers' pipeline."""

    size: published.Size = "sd14"
    """sd14 (the published sizes), small or tiny."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Precision = "fp16"
    """Precision of weights and activations."""
    backends: str = "inductor,onnxruntime,tensorrt"
    """Backends to measure, separated by commas."""
    batches: str = "1,16"
    """Images per batch, separated by commas."""
    steps: int = 50
    """Steps of PNDM, the paper's default."""
    guidance: float = 2.0
    """Scale of classifier-free guidance."""
    num_batches: int = 2
    """Batches of each measurement."""
    num_rounds: int = 2
    """How often each is repeated; the first of torch.compile compiles, and is made before."""
    work: Path | None = None
    """Folder for checkpoint and engines, kept for the next time; None: temporary."""
    record: Path | None = None
    """Where the answer goes besides the screen."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One batch size."""

    config: GpuGenerationConfig
    batch: int
    device: torch.device
    work: Path

    @property
    def steps(self) -> int:
        """Diffusion steps."""
        return self.config.steps

    @property
    def guidance(self) -> float:
        """Scale of guidance."""
        return self.config.guidance

    def generate_config(self, engines: Path, output: Path) -> GenerateConfig:
        """The run that is measured."""
        return GenerateConfig(
            engines=engines,
            classes="digits",
            output=str(output),
            prompt="c,d",
            guidance=self.guidance,
            solver="pndm",
            steps=self.steps,
            per_class=-(-self.config.num_batches * self.batch // 10),
            batch=self.batch,
            shard_size=100,
            device=str(self.device),
        )


def ours(job: Job, name: str) -> Callable[[], float]:
    """Images/s through one backend's engines, opened anew each time but not counted."""
    engines = job.work / f"engines-{name}-{job.batch}"
    words = ["--model", job.work / "checkpoint", "--backend", name, "--precision", job.config.precision]
    words += ["--batch", job.batch, "--device", job.device, "--output", engines]
    with contextlib.redirect_stdout(sys.stderr):
        if build.command([str(word) for word in words]):
            raise RuntimeError(f"no engines of {name}; what is printed above says why")

    def once() -> float:
        with tempfile.TemporaryDirectory(dir=job.work) as output:
            options = job.generate_config(engines, Path(output) / "set")
            return make_plan(options).num_images / make_set(options)

    return once


def theirs(job: Job, *, compiled: bool) -> Callable[[], float]:
    """Images/s of diffusers' pipeline."""
    engines = next(job.work.glob(f"engines-*-{job.batch}"))  # for the checkpoint and the precision
    pipeline = diffusers_pipeline(engines, job.device)
    if compiled:
        for part in ("unet", "vae"):
            module = getattr(pipeline, part).to(memory_format=torch.channels_last)
            setattr(pipeline, part, torch.compile(module, dynamic=False))
    plan = make_plan(job.generate_config(engines, job.work / "unused"))
    prompts = [image.prompt for image in plan.images(range(job.config.num_batches * job.batch))]
    diffusers_way(
        dataclasses.replace(job, config=dataclasses.replace(job.config, steps=2)), pipeline, prompts[: job.batch]
    )
    return lambda: len(prompts) / diffusers_way(job, pipeline, prompts)


def ways(job: Job) -> Iterator[tuple[str, Callable[[], Callable[[], float]]]]:
    """What is measured, by name; diffusers after ours, from whose engines it takes checkpoint and precision."""
    for name in job.config.backends.split(","):
        yield name, partial(ours, job, name)
    yield "diffusers", partial(theirs, job, compiled=False)
    yield "diffusers_torch_compile", partial(theirs, job, compiled=True)


def measure_all(config: GpuGenerationConfig, device: torch.device, work: Path) -> list[dict[str, Any]]:
    """A row for each batch and way; what fails has its error in its row."""
    if not (work / "checkpoint").is_dir():
        part = work / ".checkpoint.part"
        shutil.rmtree(part, ignore_errors=True)
        published.save_checkpoint(config.size, part)
        part.rename(work / "checkpoint")
    rows = []
    for batch in (int(word) for word in config.batches.split(",")):
        job = Job(config=config, batch=batch, device=device, work=work)
        for name, make in ways(job):
            start_s, row = time.perf_counter(), {"batch": batch, "way": name}
            try:
                once = make()
                row["made_s"] = round(time.perf_counter() - start_s, 1)
                rates = [once() for _ in range(config.num_rounds)]
                row["images_per_s"] = [float(f"{rate:.4g}") for rate in rates]
                if config.size == "sd14":
                    options = job.generate_config(work, work)
                    row["tflops"] = round(max(rates) * cost.image_tflop(options, cost.STABLE_DIFFUSION_1), 2)
            except gpu_ways.PART_ERRORS as error:
                row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            gpu_ways.free(device)
    return rows


def main(config: GpuGenerationConfig) -> None:
    """Measure everything."""
    device = backend.pick_device(config.device)
    with contextlib.ExitStack() as stack:
        work = config.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        answer = {
            "benchmark": "gpu_generation",
            "machine": measure.machine(device),
            "options": {name: str(value) for name, value in dataclasses.asdict(config).items()},
            "rows": measure_all(config, device, work),
        }
    if config.record is not None:
        files.write_json(config.record, answer)
    print(json.dumps(answer))


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(GpuGenerationConfig, main, prog="bench/gpu_generation.py", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
