"""How many images each class gets: the same for all, or those of a real data set with its imbalance; times a whole number."""

import os
from collections.abc import Sequence
from pathlib import Path

from synthclone.gen.classes import ClassEntry
from synthclone.gen.wording import listed

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def count_images(folder: Path, entries: Sequence[ClassEntry]) -> tuple[int, ...]:
    """Images of each class in an ImageFolder tree, FOLDER/CLASS-KEY/**/IMAGE, by their file names alone.

    Raises:
        ValueError: no such folder, or classes without an image in it; the message lists them.
    """
    if not folder.is_dir():
        raise ValueError(f"--counts-from {folder} is no folder; give an ImageFolder tree, such as IMAGENET/train")
    counts = tuple(_count(folder / entry.key) for entry in entries)
    if missing := [entry.key for entry, count in zip(entries, counts, strict=True) if not count]:
        raise ValueError(
            f"--counts-from {folder} has no image of {len(missing)} of {len(entries)} classes: {listed(missing)}; "
            "give the folder whose subfolders are named by class key, or fewer --classes"
        )
    return counts


def _count(folder: Path) -> int:
    return sum(name.lower().endswith(EXTENSIONS) for _, _, names in os.walk(folder) for name in names)
