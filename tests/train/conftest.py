"""Small data sets of shards for the tests of training."""

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthclone.gen import storage
from synthclone.gen.shards import Sample, read_dataset, write_manifest, write_shard
from synthclone.train.crops import CropPolicy
from synthclone.train.loader import Loader, LoaderConfig

ROOT = Path(__file__).parents[2]
CLASSES = tuple("abcdefghij")


def jpeg(image_HWC: np.ndarray) -> bytes:
    """An image as JPEG, nearly without loss."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


class Shards:
    """What the tests do with data sets."""

    classes = CLASSES
    root = ROOT

    @staticmethod
    def jpeg(image_HWC: np.ndarray) -> bytes:
        return jpeg(image_HWC)

    @staticmethod
    def write(folder: Path, jpegs: Sequence[bytes], labels: Sequence[int], per_shard: int) -> Path:
        """A data set with the keys 00000000, 00000001, ..."""
        folder.mkdir(parents=True)
        for number, start in enumerate(range(0, len(jpegs), per_shard)):
            samples = [
                Sample(key=f"{i:08d}", jpeg=jpegs[i], fields={"label": int(labels[i]), "class": "x" * (i % 5)})
                for i in range(start, min(start + per_shard, len(jpegs)))
            ]
            write_shard(storage.at(folder), number, samples, {})
        rows = [{"key": key, "name": key} for key in CLASSES]
        write_manifest(storage.at(folder), {"classes": rows, "num_images": len(jpegs), "image_size": 32})
        return folder

    @staticmethod
    def flat(labels: Sequence[int]) -> list[bytes]:
        """Images of one grey each: 20 times the label."""
        return [jpeg(np.full((32, 32, 3), 20 * label, dtype=np.uint8)) for label in labels]

    @staticmethod
    def loader(folder: Path, run: Path, policy: CropPolicy, **changes) -> Loader:
        values = {"batch_size": 8, "num_threads": 1, "seed": 0, "rank": 0, "world_size": 1, "device_id": None}
        return Loader(read_dataset(folder), LoaderConfig(policy=policy, run_folder=run, **(values | changes)))

    @staticmethod
    def python(*words: object, **options) -> subprocess.CompletedProcess:
        """Run Python in the repository's root."""
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="session")
def shards() -> type[Shards]:
    return Shards


@pytest.fixture(scope="session")
def striped(tmp_path_factory) -> Path:
    """48 learnable images of 10 classes in 3 shards: stripes whose width tells the class."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 48)
    columns_W = np.arange(32)
    images = [
        np.broadcast_to(((columns_W // (label + 1)) % 2 * 200 + 20)[None, :, None], (32, 32, 3)).astype(np.uint8)
        for label in labels
    ]
    return Shards.write(tmp_path_factory.mktemp("striped") / "set", [jpeg(i) for i in images], labels, per_shard=16)
