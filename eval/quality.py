"""How near a synthetic data set is to real images: FID, KID, precision, recall, density, coverage, and CLIP score.

    synthclone quality --synthetic DATASET --real IMAGEFOLDER --features RUN/checkpoints/last.safetensors --output quality.json
    synthclone quality --synthetic DATASET --real IMAGEFOLDER --features CLIP_DIR --clip CLIP_DIR --output quality.json

Overall and for each class. Every number depends on whose features they are, so numbers compare only for the same
checkpoint; those of published tables need the features of those tables. Features are kept (`feature_cache.py`), and a
picture is drawn beside the results (`quality_plot.py`).
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from synthclone.engines.backend import pick_device
from synthclone.engines.command import run
from synthclone.engines.files import write_json
from synthclone.eval import distances
from synthclone.eval.extractors import Extractor, open_clip, open_extractor
from synthclone.eval.feature_cache import Features, compute_features
from synthclone.eval.feature_rows import Rows
from synthclone.eval.image_sources import Source, open_source
from synthclone.eval.quality_plot import draw, table
from synthclone.export.resnet import Arch


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Measure how near a synthetic data set is to real images."""

    synthetic: str
    """Data set of shards, a folder or a URL (s3://, gs://, hf://), or an ImageFolder."""
    real: str
    """ImageFolder of real images with the same class keys, or a data set of shards."""
    features: Path
    """Whose features: a checkpoint as `synthclone eval` reads it, or a folder of a CLIPModel (safetensors)."""
    output: Path
    """JSON file for the results; the picture is put beside it."""
    clip: Path | None = None
    """Folder of a CLIPModel for the CLIP score of images and their prompts; no such score without."""
    cache: Path | None = None
    """Folder where features are kept; without, `features` beside the results."""
    arch: Arch | None = None
    """Network of the weights, where the file does not say it and its names fit several."""
    neighbours: int = 5
    """Which nearest neighbour gives the radius for precision, recall, density and coverage."""
    neighbour_images: int = 10000
    """Images of each side at most, drawn by the seed, for these four: their cost grows with the square."""
    kid_subsets: int = 100
    """Subsets that KID is averaged over."""
    kid_subset_size: int = 1000
    """Images of a subset, or as many as the smaller side has."""
    batch_size: int = 64
    """Images of a forward pass."""
    num_threads: int = 4
    """DALI's CPU threads."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        least = {"neighbours": 1, "neighbour_images": 1, "kid_subsets": 1, "kid_subset_size": 2, "batch_size": 1}
        for name, value in {**least, "num_threads": 1, "seed": 0}.items():
            if getattr(self, name) < value:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give {value} or more")
        if self.output.suffix != ".json":
            raise ValueError(
                f"--output is {self.output}; give a name that ends in .json, beside which the picture goes"
            )
        if self.neighbour_images <= self.neighbours:
            raise ValueError(
                f"--neighbour-images is {self.neighbour_images}; give more than --neighbours, {self.neighbours}"
            )


def measure_quality(config: QualityConfig) -> dict[str, Any]:
    """Everything that is measured, as one JSON object.

    Raises:
        ValueError: a source, a checkpoint or a folder is not what it should be, or classes are missing on one side.
    """
    start_s = time.perf_counter()
    require_torchmetrics()
    device = pick_device("auto")
    synthetic, real = open_source(config.synthetic), open_source(config.real)
    extractor = open_extractor(config.features, config.arch, device)
    clip = open_clip(config.clip, device) if config.clip is not None else None
    made, true = (features_of(config, source, extractor) for source in (synthetic, real))
    synthetic_N, real_N = shared_labels(made, true)
    scores_N, num_cut = clip_scores(features_of(config, synthetic, clip), clip) if clip is not None else (None, 0)

    def measure(label: int | None) -> dict[str, Any]:
        """Of all images, or of a class."""
        mine_N, its_N = (
            labels_N == label if label is not None else labels_N >= 0 for labels_N in (synthetic_N, real_N)
        )
        found = compare(
            made.rows(device).choose(mine_N),
            true.rows(device).choose(its_N),
            config,
            np.random.default_rng([config.seed, 0 if label is None else label + 1]),
        )
        return found | {"clip_score": float(scores_N[mine_N].mean()) if scores_N is not None else None}

    overall = measure(None)
    present = [(label, key) for label, key in enumerate(sorted(synthetic.classes)) if (synthetic_N == label).any()]
    by_class = {key: measure(label) for label, key in tqdm(present, desc="distances", unit="class", leave=False)}
    return {
        "what": "quality",
        "synthetic": config.synthetic,
        "real": config.real,
        "checkpoint": extractor.name,
        "checkpoint_sha256": extractor.sha256,
        "arch": extractor.metadata.arch,
        "num_features": extractor.num_features,
        "image_size": extractor.metadata.image_size,
        "clip": clip.name if clip is not None else None,
        "clip_sha256": clip.sha256 if clip is not None else None,
        "num_prompts_cut": num_cut,
        "neighbours": config.neighbours,
        "neighbour_images": config.neighbour_images,
        "kid_subsets": config.kid_subsets,
        "seed": config.seed,
        "device": device.type,
        "bad_images": {"synthetic": made.bad, "real": true.bad},
        "num_bad_images": {"synthetic": len(made.bad), "real": len(true.bad)},
        "num_computed": {"synthetic": made.num_computed, "real": true.num_computed},
        "overall": overall,
        "by_class": by_class,
        "warnings": warnings_of(overall, by_class, extractor.num_features, config.neighbours),
        "seconds": time.perf_counter() - start_s,
    }


def require_torchmetrics() -> None:
    """Say before the hours of work what is not installed."""
    try:
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise ValueError(f"torchmetrics cannot be loaded ({error}); pip install 'synthclone[quality]'") from error


def features_of(config: QualityConfig, source: Source, extractor: Extractor) -> Features:
    """Features by the command's options."""
    cache = config.cache or config.output.parent / "features"
    return compute_features(source, extractor, cache, config.batch_size, config.num_threads)


def shared_labels(synthetic: Features, real: Features) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both sides by one list: the synthetic side's class keys, sorted.

    Raises:
        ValueError: a class has images on one side only.
    """
    present = [{side.source.classes[label] for label in np.unique(side.labels_N)} for side in (synthetic, real)]
    for having, lacking, keys in (
        (synthetic, real, sorted(present[0] - present[1])),
        (real, synthetic, sorted(present[1] - present[0])),
    ):
        if keys:
            raise ValueError(
                f"{lacking.source.location} has no readable image of {len(keys)} classes of {having.source.location}: "
                f"{', '.join(keys)}; give both sides the same class keys, as many classes on each"
            )
    numbers = {key: number for number, key in enumerate(sorted(synthetic.source.classes))}
    labels = [
        np.array([numbers.get(key, -1) for key in side.source.classes])[side.labels_N] for side in (synthetic, real)
    ]
    return labels[0], labels[1]


def compare(synthetic: Rows, real: Rows, config: QualityConfig, generator: np.random.Generator) -> dict[str, Any]:
    """Counts and metrics of two sets; None for what takes more images than there are."""
    found: dict[str, Any] = {"num_synthetic": len(synthetic), "num_real": len(real)}
    found |= dict.fromkeys(
        ("fid", "kid", "kid_std", "kid_subset_size", "precision", "recall", "density", "coverage", "num_repeated")
    )
    if min(len(synthetic), len(real)) >= 2:
        found["fid"] = distances.frechet_distance(distances.fit_gaussian(real), distances.fit_gaussian(synthetic))
        kid = distances.kernel_distance(
            real,
            synthetic,
            subset_size=config.kid_subset_size,
            num_subsets=config.kid_subsets,
            generator=generator,
        )
        found |= {"kid": kid.mean, "kid_std": kid.std, "kid_subset_size": kid.subset_size}
    if min(len(synthetic), len(real)) > config.neighbours:
        drawn = (side.draw(config.neighbour_images, generator).tensor() for side in (real, synthetic))
        found |= asdict(distances.neighbourhood(*drawn, config.neighbours))
    return found


def clip_scores(features: Features, clip: Extractor) -> tuple[np.ndarray, int]:
    """100 max(cos, 0) of each image and its own prompt (torchmetrics' scale; Hessel et al. 2021 have 2.5 for 100).

    Raises:
        ValueError: an image has no prompt.
    """
    assert clip.embed_text is not None
    if any((piece.prompt_N < 0).any() for piece in features.pieces):
        raise ValueError(
            f"images of {features.source.location} have no prompt; leave out --clip, or give what `synthclone generate` made"
        )
    prompts = sorted({prompt for piece in features.pieces for prompt in piece.prompts})
    text_PF, num_cut = clip.embed_text(prompts)
    text_PF = torch.nn.functional.normalize(text_PF, dim=1)
    numbers = {prompt: number for number, prompt in enumerate(prompts)}
    scores = []
    for piece in features.pieces:
        order_P = torch.tensor([numbers[prompt] for prompt in piece.prompts], dtype=torch.int64)
        image_NF = torch.nn.functional.normalize(piece.features_NF, dim=1)
        scores.append(100 * (image_NF * text_PF[order_P[piece.prompt_N]]).sum(dim=1).clamp(min=0))
    return torch.cat(scores).numpy(), num_cut


def warnings_of(
    overall: Mapping[str, Any], by_class: Mapping[str, Mapping[str, Any]], num_features: int, neighbours: int
) -> list[str]:
    """Where there are too few images for what a number is taken to mean."""

    def count(least: int) -> int:
        return sum(min(row["num_synthetic"], row["num_real"]) < least for row in by_class.values())

    notes = []
    if min(overall["num_synthetic"], overall["num_real"]) <= num_features:
        notes.append(
            f"FID overall is from fewer images than {num_features} features + 1, so a covariance is singular and FID "
            "is too high; compare it only at equal counts, or read KID, which has no such bias"
        )
    if overall["num_repeated"]:
        notes.append(
            f"{overall['num_repeated']} real images have the very features of {neighbours} others: duplicates, or a "
            "network that does not tell them apart; precision, recall, density and coverage say little of them"
        )
    for least, text in (
        (num_features + 1, f"FID is too high, from fewer images than {num_features} features + 1: read KID instead"),
        (neighbours + 1, f"no precision, recall, density and coverage: they take more than {neighbours} images"),
        (2, "no FID and KID: they take 2 images of each side"),
    ):
        if count(least):
            notes.append(f"{count(least)} of {len(by_class)} classes: {text}")
    return notes


def main(config: QualityConfig) -> dict[str, Any]:
    """Measure, write results and picture, and print the table."""
    results = measure_quality(config)
    write_json(config.output, results)
    picture = draw(results, config.output.with_suffix(".png"))
    for note in results["warnings"]:
        print(f"warning: {note}", file=sys.stderr)
    print(table(results))
    print(f"results in {config.output}, picture in {picture}")
    return results


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(QualityConfig, main, prog="synthclone quality", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
