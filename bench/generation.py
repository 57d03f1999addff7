"""Generation as a whole: against diffusers' own pipeline, the share of time that is not the U-Net's, and identity across batches.

    python bench/generation.py --engines DIR                     digits engines of `synthclone build --batch 1:32:64`
    python bench/generation.py --engines DIR --num-batches 2 --num-rounds 1 --null-ms 10

Ours is `synthclone generate` from the plan to shards on disk, JPEG encoding, checks and writing counted; diffusers'
eager `StableDiffusionPipeline` only makes arrays. Both run the same model, batch, steps, guidance and precision, turn by
turn in one process. The null engines sleep for a set time instead of computing, as a GPU does from the host's view, and
hand out images of 512x512 pixels. A U-Net call of 64 guided images is 103 TFLOP: 120 ms stand for a GPU that sustains 860
TFLOP/s. Ends with one JSON line, which is also the record; the timelines are drawn beside it.
"""

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from synthclone.bench import measure
from synthclone.engines import files
from synthclone.engines.artifact import read_manifest
from synthclone.engines.backend import pick_device
from synthclone.engines.command import run
from synthclone.engines.spec import DTYPES, AxisRange, EngineSpec, TensorSpec
from synthclone.gen import production, storage, timeline
from synthclone.gen.config import GenerateConfig, make_plan
from synthclone.gen.solvers import make_steps

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Measure generation as a whole."""

    engines: Path
    """Folder that `synthclone build --model gen/models/digits` made."""
    batch: int = 64
    """Images per batch, of ours and of diffusers' pipeline."""
    steps: int = 50
    """Steps of PNDM, the paper's default; it calls the U-Net once more."""
    guidance: float = 7.5
    """Scale of classifier-free guidance."""
    num_batches: int = 5
    """Batches of each measurement."""
    num_rounds: int = 3
    """How often the series is repeated."""
    num_null_batches: int = 10
    """Batches of the run with null engines; its first and last are not hidden behind others."""
    null_ms: float = 120.0
    """Milliseconds that a null U-Net call takes; an eighth of that for the decoder."""
    record: Path | None = Path("bench/records/generation.json")
    """Where the result goes; timelines are drawn beside it, as .png."""

    def __post_init__(self) -> None:
        if (
            min(self.batch, self.steps, self.num_batches, self.num_null_batches, self.num_rounds) < 1
            or self.null_ms < 0
        ):
            raise ValueError("batch, steps, num-batches and num-rounds must be at least 1, and null-ms at least 0")


class Sampling(Protocol):
    """What diffusers' pipeline is told."""

    @property
    def batch(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def guidance(self) -> float: ...


def main(config: GenerationConfig) -> None:
    """Measure all three."""
    answer: dict[str, Any] = {
        "benchmark": "generation",
        "machine": measure.machine(CPU),
        "options": {name: str(value) for name, value in dataclasses.asdict(config).items()},
        "engine": {name: read_manifest(config.engines / "unet")[name] for name in ("backend", "precision")},
    }
    with tempfile.TemporaryDirectory() as folder:
        answer["peers"] = {}
        for batch in sorted({1, 8, config.batch}):
            answer["peers"][batch], digits_spans = against_diffusers(config, batch, Path(folder) / f"peers{batch}")
        answer["digits"] = shares(digits_spans)
        null_spans = with_null_engines(config, Path(folder))
        answer["null"] = shares(null_spans)
        answer["identity"] = identity(config, Path(folder))
    if config.record is not None:
        files.write_json(config.record, answer)
        draw({"digits engines": digits_spans, "null engines": null_spans}, config.record.with_suffix(".png"))
    print(json.dumps(answer))


def generate_config(config: GenerationConfig, output: Path, *, batch: int, per_class: int) -> GenerateConfig:
    """The run that is measured."""
    return GenerateConfig(
        engines=config.engines,
        classes="digits",
        output=str(output),
        prompt="c,d",
        guidance=config.guidance,
        solver="pndm",
        steps=config.steps,
        per_class=per_class,
        batch=batch,
        shard_size=100,
        device="cpu",
    )


def make_set(config: GenerateConfig, spans: timeline.Timeline | None = None) -> float:
    """Seconds that the data set took, its engines already open."""
    plan = make_plan(config)
    maker = production.open_maker(config, plan, pick_device(config.device), timeline=spans)
    start_s = time.perf_counter()
    for _ in maker.make(range(plan.num_shards)):
        pass
    return time.perf_counter() - start_s


def against_diffusers(config: GenerationConfig, batch: int, folder: Path) -> tuple[dict[str, Any], list[timeline.Span]]:
    """Images a second of ours and of diffusers' pipeline at one batch, and the timeline of our last round."""
    config = dataclasses.replace(config, batch=batch)
    per_class = max(1, config.num_batches * config.batch // 10)
    count = 10 * per_class
    plan = make_plan(generate_config(config, folder / "plan", batch=config.batch, per_class=per_class))
    prompts = [image.prompt for image in plan.images(range(count))]
    peer = diffusers_pipeline(config.engines, CPU)
    ways: dict[str, Callable[[int], tuple[float, list[timeline.Span]]]] = {
        "synthclone": lambda number: our_way(config, folder / f"ours{number}", per_class),
        "diffusers": lambda number: (diffusers_way(config, peer, prompts), []),
    }
    diffusers_way(dataclasses.replace(config, steps=2), peer, prompts[: config.batch])
    rates: dict[str, list[float]] = {name: [] for name in ways}
    spans: list[timeline.Span] = []
    for number in range(config.num_rounds):
        for name, way in ways.items():
            seconds, found = way(number)
            rates[name].append(round(count / seconds, 3))
            spans = found or spans
            print(
                f"batch {batch:<3} {name:<12} round {number + 1}: {rates[name][-1]:.2f} images/s",
                file=sys.stderr,
                flush=True,
            )
    ratios = sorted(ours / peers for ours, peers in zip(rates["synthclone"], rates["diffusers"], strict=True))
    return {"num_images": count, "images_per_s": rates, "ratio": [round(ratio, 3) for ratio in ratios]}, spans


def our_way(config: GenerationConfig, output: Path, per_class: int) -> tuple[float, list[timeline.Span]]:
    """Seconds and spans of one data set."""
    recorded = timeline.Timeline(recording=True)
    seconds = make_set(generate_config(config, output, batch=config.batch, per_class=per_class), recorded)
    return seconds, recorded.collect()


def diffusers_pipeline(engines: Path, device: torch.device) -> Any:
    """diffusers' own pipeline of the engines' checkpoint, with its own scheduler, in the engines' precision."""
    from diffusers import StableDiffusionPipeline

    info = files.read_json(engines / "pipeline.json")
    dtype = DTYPES[read_manifest(engines / "unet")["precision"]]
    pipeline = StableDiffusionPipeline.from_pretrained(info["model_folder"], torch_dtype=dtype, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def diffusers_way(config: Sampling, pipeline: Any, prompts: Sequence[str]) -> float:
    """Seconds that diffusers takes for the images, as arrays: nothing is encoded or saved."""
    start_s = time.perf_counter()
    for begin in range(0, len(prompts), config.batch):
        pipeline(
            list(prompts[begin : begin + config.batch]),
            guidance_scale=config.guidance,
            num_inference_steps=config.steps,
            output_type="np",
        )
    return time.perf_counter() - start_s


@dataclass(frozen=True)
class NullEngine:
    """Sleeps, and answers with what it was given, in the right shape."""

    spec: EngineSpec
    latency_s: float
    device: torch.device = CPU

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Wait as for a GPU."""
        time.sleep(self.latency_s)
        latent_BCHW = inputs["latent"]
        if self.spec.name == "unet":
            return latent_BCHW
        image_BCHW = torch.nn.functional.interpolate(latent_BCHW[:, :3].float(), scale_factor=8, mode="bilinear")
        return (image_BCHW / 4).clamp(-1, 1)


def with_null_engines(config: GenerationConfig, folder: Path) -> list[timeline.Span]:
    """The timeline of a run whose U-Net and decoder take a set time, at Stable Diffusion's image size."""
    recorded = timeline.Timeline(recording=True)
    per_class = max(1, config.num_null_batches * config.batch // 10)
    options = generate_config(config, folder / "null", batch=config.batch, per_class=per_class)
    plan = make_plan(options)
    maker = production.open_maker(options, plan, CPU, timeline=recorded)
    batch = {"batch": AxisRange(minimum=1, optimum=config.batch, maximum=2 * config.batch)}
    real = maker.sampler.pipeline
    latent = TensorSpec(name="latent", dtype="fp32", axes=("batch", 4, 64, 64))
    noise = dataclasses.replace(latent, name="noise")
    image = TensorSpec(name="image", dtype="fp32", axes=("batch", 3, 512, 512))
    unet = NullEngine(
        dataclasses.replace(
            real.unet.spec, inputs=(latent, *real.unet.spec.inputs[1:]), outputs=(noise,), ranges=batch
        ),
        config.null_ms / 1e3,
    )
    decoder = NullEngine(
        dataclasses.replace(real.vae_decoder.spec, inputs=(latent,), outputs=(image,), ranges=batch),
        config.null_ms / 8e3,
    )
    pipeline = dataclasses.replace(
        real, unet=timeline.TimedEngine(unet, recorded), vae_decoder=timeline.TimedEngine(decoder, recorded)
    )
    maker.sampler = dataclasses.replace(
        maker.sampler,
        pipeline=pipeline,
        steps=make_steps("pndm", config.steps, real.info["scheduler"]),
    )
    for _ in maker.make(range(plan.num_shards)):
        pass
    return recorded.collect()


def shares(spans: list[timeline.Span]) -> dict[str, Any]:
    """Wall time, the share in which no U-Net call ran, and each stage's own share."""
    whole_s = timeline.wall_s(spans)
    stages = sorted({span.stage for span in spans})
    return {
        "wall_s": round(whole_s, 3),
        "all_but_unet": round(1 - timeline.busy_s(spans, "unet") / whole_s, 4),
        "busy": {stage: round(timeline.busy_s(spans, stage) / whole_s, 4) for stage in stages},
    }


def identity(config: GenerationConfig, folder: Path) -> dict[str, Any]:
    """Whether the shards' bytes are the same at batches of 1, 7 and the measured one."""
    digests = {}
    for batch in (1, 7, config.batch):
        options = dataclasses.replace(
            generate_config(config, folder / f"batch{batch}", batch=batch, per_class=3), steps=10, shard_size=12
        )
        make_set(options)
        target = storage.at(options.output)
        digests[batch] = [files.sha256(path) for path in sorted(Path(target.root).glob("*.tar"))]
    return {
        "num_images": 30,
        "same_bytes": {str(batch): found == digests[config.batch] for batch, found in digests.items()},
    }


def draw(runs: dict[str, list[timeline.Span]], path: Path) -> None:
    """One row per stage, time to the right, for each run."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(runs), 1, figsize=(11, 2.6 * len(runs)), layout="constrained", squeeze=False)
    for axis, (title, spans) in zip(axes[:, 0], runs.items(), strict=True):
        stages = [
            name
            for name in ("unet", "decode", "jpeg", "write", "prepare", "wait for room")
            if any(s.stage == name for s in spans)
        ]
        begin_s = min(span.start_s for span in spans)
        for row, stage in enumerate(stages):
            bars = [(span.start_s - begin_s, span.end_s - span.start_s) for span in spans if span.stage == stage]
            axis.broken_barh(bars, (row - 0.4, 0.8), color=f"C{row}")
        axis.set_yticks(range(len(stages)), stages)
        axis.invert_yaxis()
        idle = shares(spans)["all_but_unet"]
        axis.set_title(f"{title}: no U-Net call in {idle:.1%} of the time", loc="left")
        axis.set_xlabel("seconds")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(GenerationConfig, main, prog="bench/generation.py", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
