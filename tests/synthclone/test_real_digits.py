"""The quickstart's real images, and its report."""

import re

import numpy as np
import pytest
from PIL import Image

from synthclone import real_digits, report
from synthclone.gen import classes, digits, shards


def test_training_shards_hold_the_training_split_and_no_other(tmp_path):
    assert real_digits.write_training_shards(tmp_path / "train", seed=0) == 1200
    dataset = shards.read_dataset(tmp_path / "train")
    assert dataset.class_keys == [entry.key for entry in classes.load("digits")]
    assert dataset.num_images == 1200
    before = dataset.shards[0].tar.stat().st_mtime_ns
    real_digits.write_training_shards(tmp_path / "train", seed=0)
    assert dataset.shards[0].tar.stat().st_mtime_ns == before


def test_test_folders_are_the_held_out_digits_and_shifted(tmp_path):
    folders = real_digits.write_test_folders(tmp_path)
    images_NHWC, labels_N = digits.load("held_out")
    keys = [entry.key for entry in classes.load("digits")]
    for name, folder in folders.items():
        paths = sorted(folder.rglob("*.png"), key=lambda path: path.name)
        assert [path.parent.name for path in paths] == [keys[label] for label in labels_N]
        pixels = np.stack([np.asarray(Image.open(path)) for path in paths[:50]])
        assert pixels.shape == (50, 64, 64, 3)
        assert np.array_equal(pixels, images_NHWC[:50]) == (name == "held_out")


@pytest.mark.parametrize("shift", [real_digits.geometric, real_digits.photometric])
def test_shifts_are_seeded(shift):
    image = Image.fromarray(digits.load("held_out")[0][0])
    one, same, other = (np.asarray(shift(image, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_report_stands_alone_and_shows_what_was_measured(tmp_path):
    real_digits.write_training_shards(tmp_path / "train", seed=0)
    entries = classes.load("digits")
    sets = {"held_out": 0.9, "geometric": 0.5, "photometric": 0.25}
    confusion = (np.eye(10, dtype=int) * 50).tolist()
    results = {
        "top1_synthetic": 0.9, "top1_real": 0.96, "num_synthetic": 1200, "num_real": 1200, "num_test": 597, "seconds": 300.0,
        "seed": 0, "prompt": "c,d", "guidance": 2.0, "solver": "ddim", "steps": 20, "machine": {"cpus": 2},
        "accuracy": {source: {name: {"top1": top1} for name, top1 in sets.items()} for source in ("synthetic", "real")},
        "confusion": {"synthetic": confusion, "real": confusion}, "stage_seconds": {"engines": 30.0, "generate": 60.0},
        "classes": [{"key": entry.key, "prompt": f"{entry.name} <&>"} for entry in entries],
    }  # fmt: skip
    report.write(tmp_path / "report.html", results, tmp_path / "train", tmp_path / "train")
    page = (tmp_path / "report.html").read_text()
    assert "90.0%" in page and "96.0%" in page and "0.938" in page and "&lt;&amp;&gt;" in page
    assert page.count("<img") == 10 * 12
    assert not re.search(r'(src|href)="(?!data:)', page)
