"""The digits and their split."""

import json

import numpy as np
from sklearn.datasets import load_digits

from synthclone.gen import digits


def test_split_is_what_its_seed_draws_and_disjoint():
    recorded = json.loads(digits.SPLIT_FILE.read_text())
    drawn = digits.make_split(load_digits().target, seed=recorded["seed"], train_per_class=recorded["train_per_class"])
    assert drawn == digits.split_indices()
    assert sorted(drawn["train"] + drawn["held_out"]) == list(range(1797))


def test_images_and_labels():
    images_NHWC, labels_N = digits.load("train")
    assert images_NHWC.shape == (1200, 64, 64, 3) and images_NHWC.dtype == np.uint8
    assert np.bincount(labels_N).tolist() == [120] * 10
    assert len(digits.load("held_out")[1]) == 597


def test_no_held_out_digit_is_also_in_training():
    """Also not as another index with the same pixels."""
    train = {image.tobytes() for image in digits.load("train")[0]}
    assert not train & {image.tobytes() for image in digits.load("held_out")[0]}
