"""Scores and frozen features of a network over an ImageFolder.

Shapes: N images, K classes, F features.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from synthclone.engines.backend import Engine
from synthclone.engines.spec import DTYPES
from synthclone.eval.imagefolder import ImageFolder, batches, list_images, readable
from synthclone.export.resnet import ResNet
from synthclone.train.checkpoint import Metadata

Scorer = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Features (B, F) and scores (B, K) of normalised images (B, C, H, W); an engine gives no features, F = 0."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a network says of a folder's images."""

    features_NF: np.ndarray
    scores_NK: np.ndarray
    labels_N: np.ndarray
    classes: tuple[str, ...]
    bad: list[dict[str, str]]
    """Images that were left out, and why."""
    seconds: float


def network_scorer(model: ResNet, device: torch.device) -> Scorer:
    """PyTorch, in fp32."""
    model = model.to(device, memory_format=torch.channels_last).eval()

    def score(images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features_BF = model.features(images_BCHW.to(device, memory_format=torch.channels_last))
        return features_BF, model.fc(features_BF)

    return score


def engine_scorer(engine: Engine) -> Scorer:
    """A compiled classifier, in its own precision; a batch that is smaller than it takes is filled up."""
    spec = engine.spec.inputs[0]
    least = engine.spec.ranges["batch"].minimum

    def score(images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count = len(images_BCHW)
        filled_BCHW = torch.cat([images_BCHW, images_BCHW[-1:].repeat(max(0, least - count), 1, 1, 1)])
        scores_BK = engine(**{spec.name: filled_BCHW.to(engine.device, DTYPES[spec.dtype])})[:count].float()
        return scores_BK[:, :0], scores_BK

    return score


def run_network(
    score: Scorer,
    metadata: Metadata,
    folder: Path,
    classes: tuple[str, ...],
    *,
    batch_size: int,
    num_threads: int,
    device: torch.device,
) -> Outputs:
    """Features and scores of every readable image of a folder.

    Raises:
        ValueError: the folder is no ImageFolder of these classes, or none of its images can be read.
    """
    images, bad = list_images(folder, classes), []
    start_s = time.perf_counter()
    try:
        features_NF, scores_NK, labels_N = forward(score, metadata, images, batch_size, num_threads, device)
    except RuntimeError:  # DALI stops at an image that it cannot decode
        images, bad = readable(images)
        if not bad:
            raise
        if not images.files:
            raise ValueError(f"none of the {len(bad)} images in {folder} can be read") from None
        features_NF, scores_NK, labels_N = forward(score, metadata, images, batch_size, num_threads, device)
    return Outputs(
        features_NF=features_NF,
        scores_NK=scores_NK,
        labels_N=labels_N,
        classes=images.classes,
        bad=bad,
        seconds=time.perf_counter() - start_s,
    )


@torch.inference_mode()
def forward(
    score: Scorer, metadata: Metadata, images: ImageFolder, batch_size: int, num_threads: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features N x F, scores N x K and labels N of all images."""
    features, scores, labels = [], [], []
    with tqdm(total=len(images.files), desc="evaluate", unit="image", leave=False) as progress:
        for images_BCHW, labels_B in batches(
            images, metadata, batch_size=batch_size, num_threads=num_threads, device=device
        ):
            features_BF, scores_BK = score(images_BCHW)
            features.append(features_BF.cpu().numpy())
            scores.append(scores_BK.cpu().numpy())
            labels.append(labels_B.numpy())
            progress.update(len(labels_B))
    return np.concatenate(features), np.concatenate(scores), np.concatenate(labels)
