"""How far two sets of features are apart: FID, KID, and precision, recall, density, coverage.

Memory is bounded by blocks of rows. torch-fidelity cannot be used, for it needs torchvision. KID's estimator is
torchmetrics'. FID has its own formula here, since the usual one takes the eigenvalues of a product of covariances: slow for
every class of a thousand, and off by 1e-5 and more where there are fewer images than features.

Shapes: N real rows, M synthetic rows, R rows of a factor, F features.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synthclone.eval.feature_rows import ROWS_PER_BLOCK, Rows

ROUNDING = 1e-11  # of |a|^2 + |b|^2: what a squared distance in float64 may be off, with room to spare


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """The normal distribution of a set of features."""

    mean_F: Tensor
    factor_RF: Tensor
    """The covariance is factor^T factor; R is at most F."""


@dataclass(frozen=True, kw_only=True)
class Kid:
    """Kernel distance over subsets."""

    mean: float
    std: float | None
    """Over the subsets; None where one subset is all there is."""
    subset_size: int


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """Fidelity and diversity by nearest neighbours."""

    precision: float
    recall: float
    density: float
    coverage: float
    num_repeated: int
    """Real images whose ball is a point: k others have the same features."""


def fit_gaussian(rows: Rows) -> Gaussian:
    """Mean and covariance, the latter as a factor: the centred rows over sqrt(n - 1), reduced by QR beyond F rows."""
    mean_F = torch.stack([block.sum(dim=0) for block in rows.blocks()]).sum(dim=0) / len(rows)
    factor_RF = mean_F.new_zeros(0, len(mean_F))
    for block in rows.blocks():
        factor_RF = torch.cat([factor_RF, (block - mean_F) / (len(rows) - 1) ** 0.5])
        if len(factor_RF) > len(mean_F):
            factor_RF = torch.linalg.qr(factor_RF, mode="r").R
    return Gaussian(mean_F=mean_F, factor_RF=factor_RF)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2), which is FID (Heusel et al. 2017) for the features given.

    With S1 = A^T A and S2 = B^T B, S1 S2 = A^T (A B^T) B has, but for zeros, the eigenvalues of (A B^T)(A B^T)^T: the
    squared singular values of A B^T. So tr sqrt(S1 S2) is the sum of these singular values. It is exact for singular
    covariances too, and costs R x R rather than F x F.
    """
    cross = torch.linalg.svdvals(one.factor_RF @ other.factor_RF.T).sum()
    distance = (one.mean_F - other.mean_F).square().sum() - 2 * cross
    distance += one.factor_RF.square().sum() + other.factor_RF.square().sum()
    return max(0.0, distance.item())  # of equal sets the last digits may be below zero


def kernel_distance(
    real: Rows, synthetic: Rows, *, subset_size: int, num_subsets: int, generator: np.random.Generator
) -> Kid:
    """KID (Bińkowski et al. 2018): the unbiased squared MMD under (x.y / F + 1)^3, mean and deviation over subsets.

    Subsets are as large as the smaller set at most. Where a subset is the whole of both sets there is but one.
    """
    from torchmetrics.image.kid import poly_mmd

    size = min(subset_size, len(real), len(synthetic))
    if size == len(real) == len(synthetic):
        num_subsets = 1
    values = [
        float(poly_mmd(real.draw(size, generator).tensor(), synthetic.draw(size, generator).tensor()))
        for _ in range(num_subsets)
    ]
    return Kid(mean=float(np.mean(values)), std=float(np.std(values)) if num_subsets > 1 else None, subset_size=size)


def neighbourhood(real_NF: Tensor, synthetic_MF: Tensor, k: int) -> Neighbourhood:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Around each real image lies a closed ball up to its k-th nearest other real image, likewise around each synthetic one.
    precision: share of synthetic images in the ball of any real one; recall: share of real images in the ball of any
    synthetic one; density: real balls that a synthetic image lies in, over k, on average (about 1 for equal
    distributions, and above it where it keeps to the crowded places); coverage: share of real balls with a synthetic
    image in it.
    """
    centre_F = real_NF.mean(dim=0)  # distances do not change, and their rounding errors become smaller
    real_NF, synthetic_MF = real_NF - centre_F, synthetic_MF - centre_F
    real_N, synthetic_M = kth_squared_distance(real_NF, k), kth_squared_distance(synthetic_MF, k)
    num_inside, num_precise = 0, 0
    covered_N = torch.zeros(len(real_NF), dtype=torch.bool, device=real_NF.device)
    recalled_N = covered_N.clone()
    for block_BF, radius_B in zip(synthetic_MF.split(ROWS_PER_BLOCK), synthetic_M.split(ROWS_PER_BLOCK), strict=True):
        distance_BN = least_squared_distance(block_BF, real_NF)
        inside_BN = distance_BN <= real_N
        num_inside += int(inside_BN.sum())
        num_precise += int(inside_BN.any(dim=1).sum())
        covered_N |= inside_BN.any(dim=0)
        recalled_N |= (distance_BN <= radius_B[:, None]).any(dim=0)
    return Neighbourhood(
        precision=num_precise / len(synthetic_MF),
        recall=float(recalled_N.double().mean()),
        density=num_inside / (k * len(synthetic_MF)),
        coverage=float(covered_N.double().mean()),
        num_repeated=int((real_N == 0).sum()),
    )


def kth_squared_distance(rows_NF: Tensor, k: int) -> Tensor:
    """Of each row, the squared distance to its k-th nearest other row: N."""
    radii = []
    for block_BF in rows_NF.split(ROWS_PER_BLOCK):
        distance_BN = least_squared_distance(block_BF, rows_NF)
        radii.append(distance_BN.topk(k + 1, largest=False).values[:, k])  # the nearest is the row itself
    return torch.cat(radii)


def least_squared_distance(one_BF: Tensor, other_NF: Tensor) -> Tensor:
    """Squared distances, B x N, less what rounding may have added, and not below 0: equal rows are at 0."""
    squares_BN = one_BF.square().sum(dim=1)[:, None] + other_NF.square().sum(dim=1)
    return ((1 - ROUNDING) * squares_BN - 2 * one_BF @ other_NF.T).clamp_(min=0)
