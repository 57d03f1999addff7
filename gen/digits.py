"""scikit-learn's digits as RGB images: 1,797 real handwritten digits of 8x8 pixels, enlarged to 64x64.

The split is fixed and committed (`data/digits_split.json`): 1,200 digits, 120 of each, may be seen by training;
the other 597 are held out, and neither the generator nor any classifier ever sees them.

    python gen/digits.py         # print the split's counts, and check it against the data
"""

import json
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

SPLIT_FILE = Path(__file__).parent / "data" / "digits_split.json"
PIXELS = 64

Split = Literal["train", "held_out"]


@cache
def split_indices() -> dict[str, list[int]]:
    """Indices into `sklearn.datasets.load_digits()`, by split."""
    splits: dict[str, list[int]] = json.loads(SPLIT_FILE.read_text())["indices"]
    return splits


def make_split(labels_N: np.ndarray, *, seed: int, train_per_class: int) -> dict[str, list[int]]:
    """Draw a stratified split: `train_per_class` digits of each class for training, the rest held out."""
    generator = np.random.default_rng(seed)
    train = [
        i for digit in range(10) for i in generator.permutation(np.flatnonzero(labels_N == digit))[:train_per_class]
    ]
    held_out = np.setdiff1d(np.arange(len(labels_N)), train)
    return {"train": sorted(int(i) for i in train), "held_out": [int(i) for i in held_out]}


def load(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The images of a split.

    Returns:
        images_NHWC: uint8, N x 64 x 64 x 3, white strokes on black.
        labels_N: int64, the digit.
    """
    from sklearn.datasets import load_digits  # a second of import that most users of this module do not need

    bunch = load_digits()
    index = split_indices()[split]
    images_NHWC = np.stack([enlarge(bunch.images[i]) for i in index])
    return images_NHWC, bunch.target[index].astype(np.int64)


def enlarge(digit_HW: np.ndarray) -> np.ndarray:
    """One 8x8 digit with values 0..16 as a 64x64x3 uint8 image, by bicubic interpolation."""
    small = Image.fromarray(np.round(digit_HW * (255 / 16)).astype(np.uint8))
    return np.asarray(small.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).convert("RGB"))


if __name__ == "__main__":
    from sklearn.datasets import load_digits

    recorded = json.loads(SPLIT_FILE.read_text())
    drawn = make_split(load_digits().target, seed=recorded["seed"], train_per_class=recorded["train_per_class"])
    assert drawn == recorded["indices"], f"{SPLIT_FILE} is not what its seed draws"
    print({name: len(indices) for name, indices in drawn.items()})
