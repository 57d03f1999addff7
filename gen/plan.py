"""The plan: which image has which class, serial number, prompt and seed, in constant memory.

An image's index in the data set is taken through a seeded bijection to its rank in the class-by-class order, so that
every shard holds a mixture of classes (a container reader only shuffles locally). Nothing is stored per image: 10
images or 65 million take the same room.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthclone.gen.classes import ClassEntry
from synthclone.gen.noise import image_seed
from synthclone.gen.prompts import PromptVariant, prompt

FEISTEL_ROUNDS = 6


@dataclass(frozen=True, kw_only=True)
class PlannedImage:
    """What one image is to be."""

    index: int
    """Position in the data set."""
    label: int
    """Rank of the class among the sorted keys."""
    class_key: str
    serial: int
    """Number of the image within its class."""
    prompt: str
    seed: str
    """Key of its noise; see `noise.py`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole data set."""

    classes: tuple[ClassEntry, ...]
    """In label order."""
    counts: tuple[int, ...]
    """Images of each class."""
    variant: PromptVariant
    backgrounds: tuple[str, ...]
    """Scenes of "c,h-inside-b"; empty for the other variants."""
    seed: int
    shard_size: int
    """Images per shard; the last one may hold fewer."""

    def __post_init__(self) -> None:
        assert len(self.classes) == len(self.counts)
        if sum(self.counts) < 1 or min(self.counts) < 0:
            raise ValueError("a data set needs at least one image; give --per-class 1 or more")
        if self.shard_size < 1:
            raise ValueError(f"shard size is {self.shard_size}, but must be 1 or more")

    @property
    def num_images(self) -> int:
        """Images in the data set."""
        return sum(self.counts)

    @property
    def num_shards(self) -> int:
        """Shards in the data set."""
        return -(-self.num_images // self.shard_size)

    def shard_indices(self, number: int) -> range:
        """The indices of a shard's images."""
        return range(number * self.shard_size, min((number + 1) * self.shard_size, self.num_images))

    def prompts_of(self, entry: ClassEntry) -> list[str]:
        """Every prompt that a class can get."""
        return [prompt(entry, self.variant, scene) for scene in self.backgrounds or (None,)]

    def images(self, indices: Sequence[int]) -> list[PlannedImage]:
        """The images of given indices."""
        key = derived_key(self.seed, "order")
        ranks = permute(np.asarray(indices, dtype=np.uint64), self.num_images, key).astype(np.int64)
        ends = np.cumsum(self.counts)
        labels = np.searchsorted(ends, ranks, side="right")
        serials = ranks - (ends - self.counts)[labels]
        return [self._image(*numbers) for numbers in zip(indices, labels.tolist(), serials.tolist(), strict=True)]

    def _image(self, index: int, label: int, serial: int) -> PlannedImage:
        entry = self.classes[label]
        return PlannedImage(
            index=index,
            label=label,
            class_key=entry.key,
            serial=serial,
            prompt=prompt(entry, self.variant, self._background(entry, serial)),
            seed=image_seed(self.seed, entry.key, serial),
        )

    def _background(self, entry: ClassEntry, serial: int) -> str | None:
        """Every class runs through all scenes, in an order of its own, before one comes again."""
        if not self.backgrounds:
            return None
        count = len(self.backgrounds)
        turn = permute(np.array([serial % count], dtype=np.uint64), count, derived_key(self.seed, entry.key))
        return self.backgrounds[int(turn[0])]


def derived_key(seed: int, purpose: str) -> int:
    """A 64-bit key for one use of the data set's seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest(), "little")


def permute(indices_N: np.ndarray, size: int, key: int) -> np.ndarray:
    """A keyed bijection of range(size): a Feistel network on the next even number of bits, walked until it lands inside.

    Args:
        indices_N: uint64, each below `size`.
        size: of the range.
        key: 64 bits.

    Returns:
        uint64, the images of the indices. (Black & Rogaway, "Ciphers with arbitrary finite domains", 2002.)
    """
    half = np.uint64(max(1, (max(1, (size - 1).bit_length()) + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    result_N = indices_N.copy()
    outside_N = np.ones(len(result_N), dtype=bool)
    while outside_N.any():
        value = result_N[outside_N]
        left, right = value >> half, value & mask
        for number in range(FEISTEL_ROUNDS):
            left, right = right, left ^ (_mix(right + np.uint64((key + number * 0x9E3779B97F4A7C15) % 2**64)) & mask)
        result_N[outside_N] = left << half | right
        outside_N = result_N >= np.uint64(size)
    return result_N


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al., 2014): every input bit reaches every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
