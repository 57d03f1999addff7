"""The training recipe as pure functions: learning rate, parameter groups, and one loss over all crops.

SGD with momentum 0.9; weight decay on convolutions and the classifier's matrix only (He et al. 2019, "Bag of
tricks", section 3.1); learning rate 0.1 for 256 images, linear warm-up, half a cosine (Goyal et al. 2017, section
2.1; Loshchilov and Hutter 2017).

Shapes: B images, N crops of an image, K classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def peak_learning_rate(batch_size: int) -> float:
    """The learning rate after warm-up for a batch over all ranks: 0.1 x batch / 256."""
    return 0.1 * batch_size / 256


def learning_rate(epoch: float, *, peak: float, warmup_epochs: float, epochs: int) -> float:
    """The learning rate at a time in epochs (3.5 is the middle of the fourth).

    Linear from 0 to `peak` during the warm-up, then `peak (1 + cos(pi t)) / 2`, where t runs from 0 to 1.
    """
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    progress = min(1.0, (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for the optimizer: matrices and kernels decay; BatchNorm's vectors and biases do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def multi_crop_loss(logits_MK: Tensor, labels_B: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """One cross-entropy over all crops of all images, M = N B; all images' first crop comes first."""
    return functional.cross_entropy(
        logits_MK, repeat_labels(labels_B, logits_MK.shape[0]), label_smoothing=label_smoothing
    )


def repeat_labels(labels_B: Tensor, num_crops: int) -> Tensor:
    """The label of each crop, in the order of the crops."""
    assert num_crops % len(labels_B) == 0, f"{num_crops} crops of {len(labels_B)} images"
    return labels_B.repeat(num_crops // len(labels_B))


class MultiCrop(nn.Module):
    """A classifier with its loss: one backbone pass for each resolution, so that a step is a single `forward`."""

    def __init__(self, classifier: nn.Module, label_smoothing: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.label_smoothing = label_smoothing

    def forward(self, crops: Sequence[Tensor], labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and how many of the first global crops are classified rightly."""
        logits_MK = torch.cat([self.classifier(crops_MCHW) for crops_MCHW in crops]).float()
        num_correct = (logits_MK[: len(labels_B)].detach().argmax(dim=1) == labels_B).sum()
        return multi_crop_loss(logits_MK, labels_B, self.label_smoothing), num_correct
