"""The whole job on handwritten digits, on a laptop, in minutes.

    make quickstart        or        synthclone quickstart --output artifacts/quickstart

Builds engines of the embedded generator, generates 1,200 synthetic digits (prompt "c, d", guidance 2), trains a
ResNet-50 from scratch on them, trains the same network on 1,200 real digits, and scores both on real digits that
nothing has seen, plain and shifted. Leaves `report.html` and `results.json`; its last line is one line of JSON.
Every stage goes on where it was interrupted.
"""

import contextlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from synthclone import real_digits, report
from synthclone.engines import files
from synthclone.engines.command import parse, run
from synthclone.eval.evaluate import EvalConfig, evaluate_folder
from synthclone.export import build
from synthclone.gen import generate, shards, storage
from synthclone.gen.config import GenerateConfig
from synthclone.gen.solvers import SolverName
from synthclone.train import train

MODEL = Path(str(resources.files("synthclone.gen"))) / "models" / "digits"
TRAINING = Path(str(resources.files("synthclone.train"))) / "digits.yaml"
STAGES = ("engines", "generate", "real data", "train on synthetic", "train on real", "score")


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """Clone the digits, train on the clone, and score it on real digits."""

    output: Path = Path("artifacts/quickstart")
    """Folder for everything that is made."""
    per_class: int = 120
    """Synthetic images of each digit; 120 is as many as there are real ones."""
    guidance: float = 2.0
    """Scale of classifier-free guidance."""
    solver: SolverName = "ddim"
    """Diffusion solver."""
    steps: int = 20
    """Diffusion steps."""
    seed: int = 0
    """Seed of data set and training."""


class Stages:
    """Announces the stages and keeps their times."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        print(f"[{STAGES.index(name) + 1}/{len(STAGES)}] {name}", file=sys.stderr, flush=True)
        start_s = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start_s, 2)


def main(config: QuickstartConfig) -> None:
    """Run all stages and print the result as one line of JSON."""
    stages, folder = Stages(), config.output
    sources = {"synthetic": folder / "synthetic", "real": folder / "real" / "train"}
    start_s = time.perf_counter()
    with stages.stage("engines"):
        build.main(build.BuildConfig(model=str(MODEL), output=folder / "engines", batch="1:32:64"))
    with stages.stage("generate"):
        request = GenerateConfig(
            engines=folder / "engines",
            classes="digits",
            output=str(sources["synthetic"]),
            prompt="c,d",
            guidance=config.guidance,
            solver=config.solver,
            steps=config.steps,
            per_class=config.per_class,
            seed=config.seed,
            shard_size=200,
        )
        generate.main(request)
    with stages.stage("real data"):
        num_real = real_digits.write_training_shards(sources["real"], config.seed)
        test_folders = real_digits.write_test_folders(folder / "real")
    scores: dict[str, dict[str, Any]] = {}
    checkpoints = {}
    for name, data in sources.items():
        with stages.stage(f"train on {name}"):
            words = ["--config", TRAINING, "--data", data, "--output", folder / f"run_{name}", "--seed", config.seed]
            words += ["--precision", training_precision()]
            recipe = parse(train.TrainConfig, "synthclone train", [str(word) for word in words])
            checkpoints[name] = Path(train.main(recipe)["checkpoint"])
    with stages.stage("score"):
        for name, checkpoint in checkpoints.items():
            scores[name] = {
                test: evaluate_folder(EvalConfig(checkpoint=checkpoint, data=path, output=folder / "results.json"))
                for test, path in test_folders.items()
            }
    manifest = shards.read_manifest(storage.at(sources["synthetic"]))
    results = {
        "top1_synthetic": scores["synthetic"]["held_out"]["top1"],
        "top1_real": scores["real"]["held_out"]["top1"],
        "num_synthetic": manifest["num_images"],
        "num_real": num_real,
        "num_test": scores["real"]["held_out"]["num_images"],
        "seconds": round(time.perf_counter() - start_s, 1),
        "seed": config.seed,
        "prompt": manifest["sampling"]["prompt"],
        "guidance": config.guidance,
        "solver": config.solver,
        "steps": config.steps,
        "accuracy": {
            name: {test: {"top1": row["top1"], "top5": row["top5"]} for test, row in rows.items()}
            for name, rows in scores.items()
        },
        "confusion": {name: rows["held_out"]["confusion"] for name, rows in scores.items()},
        "classes": [{"key": entry["key"], "prompt": entry["prompt"]} for entry in manifest["classes"]],
        "stage_seconds": stages.seconds,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "machine": machine(),
    }
    files.write_json(folder / "results.json", results)
    report.write(folder / "report.html", results, sources["synthetic"], sources["real"])
    print(f"report: {folder / 'report.html'}", file=sys.stderr)
    kept = (
        "top1_synthetic",
        "top1_real",
        "num_synthetic",
        "num_real",
        "num_test",
        "seconds",
        "seed",
        "peak_memory_bytes",
    )
    print(json.dumps({name: results[name] for name in kept}))


def training_precision() -> str:
    """bf16 where the processor or GPU multiplies in it; elsewhere PyTorch emulates it, slower than fp32."""
    has_bf16 = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    packages = ("torch", "onnxruntime", "nvidia-dali-cuda130", "deepspeed", "diffusers")
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: version(name) for name in packages},
    }


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(QuickstartConfig, main, prog="synthclone quickstart", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
