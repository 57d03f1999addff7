"""The multi-crop policy: its rules, and the geometry of the crops that DALI makes."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from synthclone.train.crops import IMAGENET_MEAN, IMAGENET_STD, CropPolicy, crop_kinds, solarise_table

PLAIN = {"num_local": 0, "flip": False, "colour": "none"}


def pixels(crops_MCHW: torch.Tensor) -> torch.Tensor:
    """Normalised crops as values 0..255."""
    mean_C11, std_C11 = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (crops_MCHW * std_C11 + mean_C11) * 255


@pytest.fixture(scope="module")
def coordinates(tmp_path_factory, shards):
    """32 equal images of 128 x 128 whose red is twice the column and whose green is twice the row."""
    image_HWC = np.zeros((128, 128, 3), dtype=np.uint8)
    image_HWC[..., 0] = 2 * np.arange(128)[None, :]
    image_HWC[..., 1] = 2 * np.arange(128)[:, None]
    return shards.write(tmp_path_factory.mktemp("xy") / "set", [shards.jpeg(image_HWC)] * 32, [1] * 32, per_shard=16)


def spans(crops_MCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Signed width and height of each crop as shares of the image's, from its outermost pixels."""
    values_MCHW = pixels(crops_MCHW)
    size = crops_MCHW.shape[-1]
    between = 254 * (size - 1) / size  # pixel centres of a crop lie half a pixel inside its edges
    width_M = values_MCHW[:, 0].mean(1)[:, -1] - values_MCHW[:, 0].mean(1)[:, 0]
    height_M = values_MCHW[:, 1].mean(2)[:, -1] - values_MCHW[:, 1].mean(2)[:, 0]
    return width_M / between, height_M / between


def test_crops_keep_their_scales_and_aspects(coordinates, shards, tmp_path) -> None:
    policy = CropPolicy(global_size=24, num_local=3, local_size=16, flip=False, colour="none")
    (batch,) = shards.loader(coordinates, tmp_path, policy, batch_size=32).batches(0, 1)
    assert [tuple(c.shape) for c in batch.crops] == [(32, 3, 24, 24), (96, 3, 16, 16)]
    for crops_MCHW, (low, high) in zip(batch.crops, (policy.global_scale, policy.local_scale), strict=True):
        width_M, height_M = spans(crops_MCHW)
        area_M, ratio_M = width_M * height_M, width_M / height_M
        assert area_M.min() > low - 0.03
        assert area_M.max() < high + 0.03
        assert area_M.std() > 0.05
        assert ratio_M.min() > 0.75 * 0.9
        assert ratio_M.max() < 1.1 / 0.75


@pytest.mark.parametrize("flip", [False, True])
def test_flip_mirrors_half_of_the_crops_or_none(flip, coordinates, shards, tmp_path) -> None:
    policy = CropPolicy(global_size=24, num_local=3, local_size=16, flip=flip, colour="none")
    (batch,) = shards.loader(coordinates, tmp_path, policy, batch_size=32).batches(0, 1)
    mirrored = torch.cat([spans(crops)[0] < 0 for crops in batch.crops]).float().mean()
    upside_down = torch.cat([spans(crops)[1] < 0 for crops in batch.crops]).any()
    assert 0.3 < mirrored < 0.7 if flip else mirrored == 0
    assert not upside_down


def test_full_colour_changes_crops_as_often_as_the_recipe_says(shards, tmp_path) -> None:
    orange_HWC = np.full((32, 32, 3), (200, 120, 40), dtype=np.uint8)
    folder = shards.write(tmp_path / "set", [shards.jpeg(orange_HWC)] * 256, [0] * 256, per_shard=128)
    policy = CropPolicy(global_size=16, num_local=0, flip=False)
    (batch,) = shards.loader(folder, tmp_path, policy, batch_size=256).batches(0, 1)
    mean_MC = pixels(batch.crops[0]).mean((2, 3))
    grey = (mean_MC.max(1).values - mean_MC.min(1).values < 3).float().mean()
    unchanged = ((mean_MC - torch.tensor([200.0, 120.0, 40.0])).abs().max(1).values < 3).float().mean()
    solarised = (mean_MC[:, 0] < mean_MC[:, 2]).float().mean()  # red above 128 is inverted, blue is not
    assert 0.12 < grey < 0.3
    assert 0.07 < unchanged < 0.2  # no jitter, not grey, not solarised: .2 x .8 x .8
    assert 0.05 < solarised < 0.3


def test_whole_images_equal_a_plain_pil_loader(shards, tmp_path) -> None:
    generator = np.random.default_rng(0)
    noise = [Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(16)]
    jpegs = [shards.jpeg(np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC))) for image in noise]
    folder = shards.write(tmp_path / "set", jpegs, [i % 10 for i in range(16)], per_shard=16)
    whole = {"global_scale": (1.0, 1.0), "aspect": (1.0, 1.0)} | PLAIN
    for size, tolerance in ((48, 2.0), (24, 4.0)):  # decoding alone, and decoding with antialiased bilinear halving
        loader = shards.loader(folder, tmp_path, CropPolicy(global_size=size, **whole), batch_size=16)
        (batch,) = loader.batches(0, 1)
        plain = {}
        for i, data in enumerate(jpegs):
            (tmp_path / "one.jpg").write_bytes(data)
            with Image.open(tmp_path / "one.jpg") as image:
                resized = image.resize((size, size), Image.Resampling.BILINEAR)
            plain[i] = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float()
        for crop_CHW, label in zip(pixels(batch.crops[0]), batch.labels_B.tolist(), strict=True):
            matches = {i: float((image - crop_CHW).abs().max()) for i, image in plain.items()}
            closest = min(matches, key=matches.__getitem__)
            assert matches[closest] <= tolerance
            assert closest % 10 == label


def test_solarisation_by_table_is_pils() -> None:
    ramp = np.arange(256, dtype=np.uint8)[None]
    assert solarise_table() == np.asarray(ImageOps.solarize(Image.fromarray(ramp), 128))[0].tolist()


def test_default_is_one_plus_eight_and_dino_is_two_plus_n() -> None:
    assert [(k.num, k.size, k.scale) for k in crop_kinds(CropPolicy())] == [(1, 224, (0.4, 1.0)), (8, 96, (0.05, 0.4))]
    assert CropPolicy(num_global=2, num_local=6).crops_per_image == 8
    assert len(crop_kinds(CropPolicy(num_local=0))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_global": 0}, "num_global is 0"),
        ({"num_local": -1}, "num_local is -1"),
        ({"global_size": 4}, "global_size is 4 pixels"),
        ({"global_scale": (0.9, 0.4)}, "global_scale is 0.9, 0.4"),
        ({"local_scale": (0.0, 0.4)}, "local_scale is 0.0, 0.4"),
        ({"aspect": (2.0, 1.0)}, "aspect is 2.0, 1.0"),
    ],
)
def test_a_bad_policy_is_named(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        CropPolicy(**change)
