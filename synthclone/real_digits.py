"""The quickstart's real images: the training digits as shards, the held-out ones as ImageFolders, plain and shifted.

train/          1,200 real digits, written by the same shard writer, at the same JPEG quality, as the synthetic ones
held_out/       597 digits that neither the generator nor any classifier sees
geometric/      the same, turned, sheared, scaled and moved
photometric/    the same, with other contrast, brightness, blur and noise, one half inverted
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from synthclone.engines import files
from synthclone.engines.command import run
from synthclone.gen import classes, digits, jpeg, shards, storage
from synthclone.gen.plan import derived_key, permute

SHIFT_SEED = 0


def write_training_shards(folder: Path, seed: int) -> int:
    """The real training digits as a data set of one shard, in seeded order; returns their number."""
    entries = classes.load("digits")
    images_NHWC, labels_N = digits.load("train")
    count = len(labels_N)
    target = storage.at(folder)
    if shards.MANIFEST not in target.sizes():
        shards.write_manifest(
            target,
            {
                "num_images": count,
                "image_size": digits.PIXELS,
                "classes": [{"key": entry.key, "name": entry.name, "label": i} for i, entry in enumerate(entries)],
                "source": "scikit-learn's digits, training split",
                "seed": seed,
            },
        )
    if 0 not in shards.finished(target):
        order = permute(np.arange(count, dtype=np.uint64), count, derived_key(seed, "real")).astype(int)
        samples = [
            shards.Sample(
                key=f"{rank:09d}",
                jpeg=jpeg.encode(images_NHWC[index], generated=False),
                fields={"label": int(labels_N[index]), "class": entries[labels_N[index]].key, "index": int(index)},
            )
            for rank, index in enumerate(order)
        ]
        shards.write_shard(target, 0, samples, {"source": "scikit-learn's digits"})
    return count


def write_test_folders(folder: Path) -> dict[str, Path]:
    """The held-out digits and their two shifted versions as ImageFolders of PNGs; returns their folders by name."""
    images_NHWC, labels_N = digits.load("held_out")
    keys = [entry.key for entry in classes.load("digits")]
    shifts = {"held_out": lambda image, _: image, "geometric": geometric, "photometric": photometric}
    for name, shift in shifts.items():
        done = folder / name / "done.json"
        if done.is_file():
            continue
        generator = np.random.default_rng(SHIFT_SEED)
        for number, (pixels_HWC, label) in enumerate(zip(images_NHWC, labels_N, strict=True)):
            path = folder / name / "images" / keys[label] / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shift(Image.fromarray(pixels_HWC), generator).save(path)
        files.write_json(done, {"num_images": len(labels_N), "seed": SHIFT_SEED})
    return {name: folder / name / "images" for name in shifts}


def geometric(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Turn by up to 25 degrees, shear by up to 0.2, scale by 0.75 to 1.1, move by up to 6 pixels."""
    angle, shear = np.deg2rad(generator.uniform(-25, 25)), generator.uniform(-0.2, 0.2)
    scale, shift_2 = generator.uniform(0.75, 1.1), generator.uniform(-6, 6, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = np.linalg.inv(turn @ np.array([[1, shear], [0, 1]]) * scale)
    centre = np.array(image.size) / 2
    offset = centre - inverse @ (centre + shift_2)
    data = (*inverse[0], offset[0], *inverse[1], offset[1])
    return image.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)


def photometric(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Contrast 0.4 to 1, brightness 0.6 to 1.2, blur of up to 2 pixels, noise of 15 grey levels, half of them inverted."""
    image = ImageEnhance.Contrast(image).enhance(generator.uniform(0.4, 1.0))
    image = ImageEnhance.Brightness(image).enhance(generator.uniform(0.6, 1.2))
    image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0, 2)))
    if generator.random() < 0.5:
        image = ImageOps.invert(image)
    pixels = np.asarray(image, dtype=np.float32)
    noisy = pixels + generator.normal(0, 15, pixels.shape[:2])[..., None]
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@dataclass(frozen=True, kw_only=True)
class RealDigitsConfig:
    """Write scikit-learn's real digits: training shards, and held-out ImageFolders, plain and shifted."""

    output: Path
    """Folder for train/, held_out/, geometric/ and photometric/."""
    seed: int = 0
    """Seed of the training images' order."""


def main(config: RealDigitsConfig) -> None:
    """Write what is not there yet."""
    count = write_training_shards(config.output / "train", config.seed)
    folders = write_test_folders(config.output)
    print(f"{config.output}: {count} training digits in shards, and {', '.join(map(str, folders.values()))}")


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(RealDigitsConfig, main, prog="python -m synthclone.real_digits", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
