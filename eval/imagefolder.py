"""Real images from an ImageFolder (one folder a class), resized and centre-cropped by DALI.

The folders' names are class keys; labels follow the checkpoint's order of classes, not the folders'. A bad image is
named, skipped and counted: all files are decoded once by PIL after DALI has stopped at one.

Shapes: B images, C channels, H x W pixels.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthclone.train.checkpoint import Metadata
from synthclone.train.dali import Dali, load_dali
from synthclone.train.loader import to_torch
from synthclone.train.quarantine import fault

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Files and their labels, in the order of class and name."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def list_images(folder: Path, classes: Sequence[str] = ()) -> ImageFolder:
    """The images of a folder of class folders.

    Args:
        classes: keys in label order; empty takes the folders' names, sorted.

    Raises:
        ValueError: no such folder, no images, or a folder that is no class.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give an ImageFolder, with one folder for each class")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    keys = tuple(classes) or tuple(names)
    unknown = [name for name in names if name not in keys]
    if unknown:
        raise ValueError(
            f"{folder / unknown[0]} is no class of the checkpoint, which knows {preview(keys)}; "
            "rename the folders to class keys, or take those away that are none"
        )
    found = [
        (file, label)
        for label, key in enumerate(keys)
        for file in sorted((folder / key).glob("*"))
        if file.suffix.lower() in EXTENSIONS
    ]
    if not found:
        raise ValueError(
            f"{folder} has no images; put files ({', '.join(EXTENSIONS)}) into folders named {preview(keys)}"
        )
    files, labels = zip(*found, strict=True)
    return ImageFolder(files=files, labels=labels, classes=keys)


def preview(keys: Sequence[str]) -> str:
    """The first class keys, for a message."""
    return ", ".join(keys[:5]) + (f", ... ({len(keys)} classes)" if len(keys) > 5 else "")


def readable(images: ImageFolder) -> tuple[ImageFolder, list[dict[str, str]]]:
    """The images that can be decoded, and what is wrong with each of the others, which are named on stderr."""
    with ThreadPoolExecutor() as pool:
        faults = list(pool.map(lambda file: fault(file.read_bytes()), images.files))
    bad = [{"file": str(f), "reason": why} for f, why in zip(images.files, faults, strict=True) if why]
    for row in bad:
        print(f"warning: {row['file']} is left out: {row['reason']}", file=sys.stderr)
    kept = [i for i, why in enumerate(faults) if why is None]
    return (
        ImageFolder(
            files=tuple(images.files[i] for i in kept),
            labels=tuple(images.labels[i] for i in kept),
            classes=images.classes,
        ),
        bad,
    )


def batches(
    images: ImageFolder, metadata: Metadata, *, batch_size: int, num_threads: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images (B x C x H x W) and labels (B), in order; the last batch may be smaller.

    Raises:
        RuntimeError: an image cannot be decoded.
    """
    dali = load_dali()

    pipeline = dali.pipeline_def(centre_crop)(
        dali,
        images,
        metadata,
        dali.decoder(device.index),
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=device.index,
    )
    pipeline.build()
    for start in range(0, len(images.files), batch_size):
        crops, labels = pipeline.run()
        count = min(batch_size, len(images.files) - start)  # the reader fills the last batch with repetitions
        labels_B = torch.from_numpy(np.asarray(labels.as_tensor()).reshape(-1)[:count].astype(np.int64))
        yield to_torch(crops)[:count], labels_B


def centre_crop(dali: Dali, images: ImageFolder, metadata: Metadata, decoder: str) -> tuple[Any, Any]:
    """DALI's graph: the files in order, and their labels."""

    encoded, labels = dali.fn.readers.file(
        files=[str(file) for file in images.files],
        labels=list(images.labels),
        pad_last_batch=True,
        name="images",
    )
    return prepare(dali, encoded, metadata, decoder), labels


def prepare(dali: Dali, encoded: Any, metadata: Metadata, decoder: str) -> Any:
    """Decoded, the shorter side brought to size / crop_ratio (bicubic, antialiased), cropped at the centre, normalised."""
    decoded = dali.fn.decoders.image(encoded, device=decoder, output_type=dali.types.RGB)
    resized = dali.fn.resize(
        decoded,
        resize_shorter=round(metadata.image_size / metadata.crop_ratio),
        interp_type=dali.types.INTERP_CUBIC,
        antialias=True,
    )
    return dali.fn.crop_mirror_normalize(
        resized,
        crop=(metadata.image_size, metadata.image_size),
        dtype=dali.types.FLOAT,
        output_layout="CHW",
        mean=[255 * value for value in metadata.mean],
        std=[255 * value for value in metadata.std],
    )
