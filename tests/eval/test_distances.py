"""FID, KID and the neighbourhood metrics against closed forms, scipy, torchmetrics and plain loops."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from synthclone.eval import distances, feature_rows
from synthclone.eval.distances import fit_gaussian, frechet_distance, kernel_distance, neighbourhood
from synthclone.eval.feature_rows import Rows

CPU = torch.device("cpu")


def rows(values_NF: np.ndarray, *sizes: int) -> Rows:
    """Rows cut into pieces of the sizes given."""
    tensor = torch.from_numpy(np.asarray(values_NF, dtype=np.float32))
    return Rows(pieces=tensor.split(list(sizes) or [len(tensor)]), index_M=np.arange(len(tensor)), device=CPU)


def draw(seed: int, count: int, num_features: int, shift: float = 0.0) -> np.ndarray:
    """Correlated normal features, as float32 holds them."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(count, num_features)) @ generator.normal(size=(num_features, num_features))
    return (mixed + shift).astype(np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks so small that every set here needs several."""
    monkeypatch.setattr(feature_rows, "ROWS_PER_BLOCK", 7)
    monkeypatch.setattr(distances, "ROWS_PER_BLOCK", 7)


def fid(one: Rows, other: Rows) -> float:
    return frechet_distance(fit_gaussian(one), fit_gaussian(other))


def test_rows_are_gathered_from_their_pieces():
    values_NF = draw(0, 20, 3)
    some = rows(values_NF, 6, 0, 9, 5).choose(np.array([19, 0, 5, 6, 14]))
    assert some.index_M.tolist() == [0, 5, 6, 14, 19]
    assert np.array_equal(some.tensor().numpy(), values_NF[[0, 5, 6, 14, 19]].astype(np.float64))
    assert torch.equal(torch.cat(list(some.blocks())), some.tensor())
    drawn = rows(values_NF).draw(8, np.random.default_rng(0))
    assert len(set(drawn.index_M.tolist())) == 8
    assert rows(values_NF).draw(30, np.random.default_rng(0)).index_M.tolist() == list(range(20))


@pytest.mark.parametrize(("num_real", "num_synthetic"), [(60, 40), (60, 5), (4, 6)])
def test_fid_is_that_of_scipy_and_of_torchmetrics(num_real, num_synthetic):
    """With more images than features, and with less."""
    real_NF, synthetic_MF = draw(1, num_real, 8).astype(np.float64), draw(2, num_synthetic, 8, 0.7).astype(np.float64)
    covariances = [np.cov(side.T) for side in (real_NF, synthetic_MF)]
    mean_F = real_NF.mean(0) - synthetic_MF.mean(0)
    expected = mean_F @ mean_F + np.trace(sum(covariances)) - 2 * np.trace(sqrtm(covariances[0] @ covariances[1])).real
    got = fid(rows(real_NF), rows(synthetic_MF, 3, num_synthetic - 3))
    assert got == pytest.approx(expected, rel=1e-6)

    from torchmetrics.image.fid import FrechetInceptionDistance

    identity = torch.nn.Identity()
    identity.num_features = 8
    metric = FrechetInceptionDistance(feature=identity).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real_NF), real=True)
    metric.update(torch.from_numpy(synthetic_MF), real=False)
    assert got == pytest.approx(float(metric.compute()), rel=1e-4)


def test_fid_of_known_gaussians():
    """Of N(0, diag(a^2)) and N(m, diag(b^2)) it is |m|^2 + |a - b|^2."""
    a, b, m = np.array([1.0, 2.0, 0.5]), np.array([2.0, 1.0, 0.5]), np.array([3.0, 0.0, -1.0])
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.sqrt(7 / 8)  # covariance 1
    assert fid(rows(signs * a), rows(signs * b + m)) == pytest.approx(m @ m + ((a - b) ** 2).sum(), rel=1e-6)


@pytest.mark.parametrize("count", [4, 50])
def test_equal_sets(count):
    features_NF = draw(3, count, 6, 100.0)
    assert fid(rows(features_NF), rows(features_NF[::-1].copy())) == pytest.approx(0, abs=1e-8)
    same = torch.from_numpy(features_NF).double()
    found = neighbourhood(same, same.flip(0), k=3)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    alike = neighbourhood(same[:1].repeat(6, 1), same[:1].repeat(8, 1), k=3)  # all radii are 0
    assert (alike.precision, alike.recall, alike.coverage, alike.num_repeated) == (1, 1, 1, 6)
    far = neighbourhood(same, same + 1e4, k=3)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbourhood_is_that_of_plain_loops(k):
    real_NF, synthetic_MF = draw(4, 40, 3).astype(np.float64), draw(5, 30, 3, 2.5).astype(np.float64)

    def radius(features: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(features - features[i], axis=1))[k]

    inside = np.array(
        [[np.linalg.norm(r - s) <= radius(real_NF, i) for s in synthetic_MF] for i, r in enumerate(real_NF)]
    )
    recalled = [
        any(np.linalg.norm(r - s) <= radius(synthetic_MF, j) for j, s in enumerate(synthetic_MF)) for r in real_NF
    ]
    found = neighbourhood(torch.from_numpy(real_NF), torch.from_numpy(synthetic_MF), k)
    assert found.precision == pytest.approx(inside.any(0).mean())
    assert found.recall == pytest.approx(np.mean(recalled))
    assert found.density == pytest.approx(inside.sum() / (k * 30))
    assert found.coverage == pytest.approx(inside.any(1).mean())
    assert 0 < found.precision < 1 and 0 < found.coverage < 1


def test_kid_of_all_images_is_that_of_plain_loops():
    real_NF, synthetic_NF = draw(6, 12, 4).astype(np.float64), draw(7, 12, 4, 0.5).astype(np.float64)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / 4 + 1) ** 3

    def within(side: np.ndarray) -> float:
        return np.mean([kernel(x, y) for i, x in enumerate(side) for j, y in enumerate(side) if i != j])

    expected = within(real_NF) + within(synthetic_NF)
    expected -= 2 * np.mean([kernel(x, y) for x in real_NF for y in synthetic_NF])
    options = {"subset_size": 1000, "num_subsets": 9}
    got = kernel_distance(rows(real_NF), rows(synthetic_NF), generator=np.random.default_rng(0), **options)
    assert got.mean == pytest.approx(expected)
    assert (got.std, got.subset_size) == (None, 12)


def test_kid_over_subsets_is_seeded_and_near_that_of_all():
    real, synthetic = rows(draw(8, 60, 4)), rows(draw(9, 50, 4, 0.5))

    def kid(seed: int, size: int) -> distances.Kid:
        generator = np.random.default_rng(seed)
        return kernel_distance(real, synthetic, subset_size=size, num_subsets=50, generator=generator)

    assert kid(0, 20) == kid(0, 20) != kid(1, 20)
    assert kid(0, 1000).subset_size == 50
    assert abs(kid(0, 20).mean - kid(0, 50).mean) < kid(0, 20).std
