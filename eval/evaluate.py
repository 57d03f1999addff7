"""Score a checkpoint on an ImageFolder of real images, and optionally probe its frozen features.

    synthclone eval --checkpoint RUN/checkpoints/last.safetensors --data real/val --output results.json
    synthclone eval --checkpoint resnet50.pth --data real/test --probe-train real/train --output results.json
    synthclone eval --engine DIR --data real/val --output results.json           # DIR from `synthclone build`

The results say what was measured, on what data and by which checkpoint, so that tables are built from them alone.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthclone.engines.backend import pick_device
from synthclone.engines.command import run
from synthclone.engines.files import sha256, write_json
from synthclone.eval import metrics
from synthclone.eval.features import Outputs, Scorer, engine_scorer, network_scorer, run_network
from synthclone.eval.probe import probe
from synthclone.export.classifier import open_classifier
from synthclone.export.resnet import Arch
from synthclone.train.checkpoint import Metadata, load_checkpoint


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Score a checkpoint on an ImageFolder of real images."""

    data: Path
    """Folder of class folders with real images."""
    output: Path
    """JSON file for the results."""
    checkpoint: Path | None = None
    """RUN/checkpoints/last.safetensors, or torchvision's or timm's weights (.safetensors, .pt, .pth)."""
    engine: Path | None = None
    """Instead of a checkpoint: folder of a classifier that `synthclone build` compiled."""
    probe_train: Path | None = None
    """ImageFolder of training images for a logistic regression on frozen features; none without."""
    arch: Arch | None = None
    """Network of the weights, where the file does not say it and its names fit several."""
    batch_size: int = 64
    """Images of a forward pass."""
    num_threads: int = 4
    """DALI's CPU threads."""
    seed: int = 0
    """Seed of the probe's split."""

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.engine is None):
            raise ValueError("give either --checkpoint FILE or --engine DIR")
        if self.engine is not None and self.probe_train is not None:
            raise ValueError("a compiled classifier gives no features to probe; give --checkpoint with --probe-train")
        for name in ("batch_size", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; give 0 or more")


def evaluate_folder(config: EvalConfig) -> dict[str, Any]:
    """Everything that is measured, as one JSON object.

    Raises:
        ValueError: the checkpoint or a folder is not what it should be.
    """
    scored = open_scorer(config)
    metadata = scored.metadata

    def outputs_of(folder: Path, classes: tuple[str, ...]) -> Outputs:
        return run_network(
            scored.score,
            metadata,
            folder,
            classes,
            batch_size=min(config.batch_size, scored.most),
            num_threads=config.num_threads,
            device=scored.device,
        )

    test = outputs_of(config.data, metadata.classes)
    num_outputs = test.scores_NK.shape[1]
    if len(test.classes) != num_outputs:
        raise ValueError(
            f"{config.data} has {len(test.classes)} class folders, {scored.name} scores {num_outputs} classes; "
            "give the data set that the checkpoint was made for"
        )
    results: dict[str, Any] = {
        "what": "evaluation",
        "checkpoint": scored.name,
        "checkpoint_sha256": scored.sha256,
        "engine": str(config.engine) if config.engine else None,
        "arch": metadata.arch,
        "epoch": metadata.epoch,
        "data": str(config.data),
        "image_size": metadata.image_size,
        "num_images": len(test.labels_N),
        "num_bad_images": len(test.bad),
        "bad_images": test.bad,
        "num_classes": num_outputs,
        "seed": config.seed,
        **classification(test),
        "probe": None,
        "seconds": test.seconds,
        "images_per_s": len(test.labels_N) / test.seconds,
    }
    if config.probe_train is not None:
        train = outputs_of(config.probe_train, test.classes)
        fitted = probe(train.features_NF, train.labels_N, test.features_NF, seed=config.seed)
        confusion_KK = metrics.confusion(fitted.predicted_N, test.labels_N, num_outputs)
        results["probe"] = {
            "data": str(config.probe_train),
            "num_images": len(train.labels_N),
            "num_bad_images": len(train.bad),
            "inverse_penalty": fitted.inverse_penalty,
            "top1": float((fitted.predicted_N == test.labels_N).mean()),
            "mean_per_class": metrics.mean_per_class(confusion_KK),
        }
    return results


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What is evaluated: a checkpoint in PyTorch, or an engine compiled from one."""

    score: Scorer
    metadata: Metadata
    name: str
    sha256: str
    """Of the checkpoint's file."""
    device: torch.device
    most: int
    """Images of a forward pass at most."""


def open_scorer(config: EvalConfig) -> Scored:
    """Load the checkpoint or the engine."""
    device = pick_device("auto")
    if config.engine is not None:
        engine, info = open_classifier(config.engine, device)
        fields = {field.name: info[field.name] for field in dataclasses.fields(Metadata) if field.name in info}
        return Scored(
            score=engine_scorer(engine),
            metadata=Metadata(**{"config": {}, **fields, "classes": tuple(info["classes"])}),
            name=info["model"],
            sha256=info["checkpoint_sha256"],
            device=device,
            most=engine.spec.ranges["batch"].maximum,
        )
    assert config.checkpoint is not None
    model, metadata = load_checkpoint(config.checkpoint, config.arch)
    return Scored(
        score=network_scorer(model, device),
        metadata=metadata,
        name=str(config.checkpoint),
        sha256=sha256(config.checkpoint),
        device=device,
        most=config.batch_size,
    )


def classification(test: Outputs) -> dict[str, Any]:
    """Accuracies and confusion of the network's own classifier."""
    correct = {k: metrics.top_k_correct(test.scores_NK, test.labels_N, k) for k in (1, 5)}
    confusion_KK = metrics.confusion(np.argmax(test.scores_NK, axis=1), test.labels_N, len(test.classes))
    return {
        "top1": float(correct[1].mean()),
        "top1_interval95": metrics.wilson_interval(int(correct[1].sum()), len(test.labels_N)),
        "top5": float(correct[5].mean()),
        "mean_per_class": metrics.mean_per_class(confusion_KK),
        "accuracy_by_class": dict(zip(test.classes, metrics.accuracy_by_class(confusion_KK), strict=True)),
        "classes": list(test.classes),
        "confusion": confusion_KK.tolist(),
    }


def main(config: EvalConfig) -> dict[str, Any]:
    """Evaluate, write the results, and print the accuracy."""
    results = evaluate_folder(config)
    write_json(config.output, results)
    low, high = results["top1_interval95"]
    print(
        f"top-1 {results['top1']:.2%} ({low:.2%} to {high:.2%}), top-5 {results['top5']:.2%} of "
        f"{results['num_images']} images; results in {config.output}"
    )
    return results


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(EvalConfig, main, prog="synthclone eval", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
