"""The plan: which image has which class, serial number, prompt and seed, in constant memory.

An image's index in the data set is taken through a seeded bijection to its rank in the class-by-class order, so that
every shard holds a mixture of classes (a container reader only shuffles locally). Nothing is stored per image: 10
images or 65 million take the same room, and any one of them is found in microseconds (`bench/plan_lookup.py`).
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numba
import numpy as np

from synthclone.gen.classes import ClassEntry
from synthclone.gen.noise import image_seed
from synthclone.gen.prompts import prompt

FEISTEL_ROUNDS = 6
MAX_SHARDS = 10**6
"""000000 to 999999: readers look for six digits."""
MAX_IMAGES = 10**12
"""Far from where indices leave 64 bits, and from any disk."""


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
    template: str
    """Of the prompts; see `prompts.py`. Unused where there are captions."""
    backgrounds: tuple[str, ...] = ()
    """Scenes of a template with {b}; empty for others."""
    captions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Whole prompts by class key, in place of the template; for every class, or empty."""
    seed: int
    shard_size: int
    """Images per shard; the last one may hold fewer."""

    def __post_init__(self) -> None:
        assert len(self.classes) == len(self.counts)
        if self.num_images < 1 or min(self.counts) < 0:
            raise ValueError("a data set needs at least one image; give --per-class 1 or more")
        if self.num_images > MAX_IMAGES:
            raise ValueError(
                f"{self.num_images:,} images are more than the {MAX_IMAGES:,} that a data set may have; "
                "give a smaller --per-class or --multiplier"
            )
        if self.shard_size < 1:
            raise ValueError(f"shard size is {self.shard_size}, but must be 1 or more")
        if self.num_shards > MAX_SHARDS:
            raise ValueError(
                f"--shard-size {self.shard_size} makes {self.num_shards:,} shards, but only {MAX_SHARDS:,} have names of "
                f"six digits; give --shard-size {-(-self.num_images // MAX_SHARDS)} or more"
            )

    @cached_property
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
        return [self.prompt(entry, choice) for choice in range(self._num_prompts(entry))]

    def used_prompts(self, label: int) -> list[str]:
        """The prompts that a class does get: all of them, or as many as it has images."""
        entry, count = self.classes[label], self.counts[label]
        if count >= self._num_prompts(entry):
            return self.prompts_of(entry)
        return [self.prompt(entry, self._choice(entry, serial)) for serial in range(count)]

    def images(self, indices: Iterable[int]) -> list[PlannedImage]:
        """The images of given indices."""
        return [self.image(index) for index in indices]

    def image(self, index: int) -> PlannedImage:
        """The image of one index."""
        rank = int(_permute_one(index, self.num_images, *self._order))
        label = bisect_right(self._ends, rank)
        entry, serial = self.classes[label], rank - self._ends[label] + self.counts[label]
        return PlannedImage(
            index=index,
            label=label,
            class_key=entry.key,
            serial=serial,
            prompt=self.prompt(entry, self._choice(entry, serial)),
            seed=image_seed(self.seed, entry.key, serial),
        )

    @cached_property
    def _ends(self) -> list[int]:
        """The rank after each class's last image."""
        return list(accumulate(self.counts))

    @cached_property
    def _order(self) -> tuple[np.uint64, np.ndarray]:
        return _constants(self.num_images, derived_key(self.seed, "order"))

    def _num_prompts(self, entry: ClassEntry) -> int:
        return len(self.captions[entry.key]) if self.captions else max(1, len(self.backgrounds))

    def _choice(self, entry: ClassEntry, serial: int) -> int:
        """Every class runs through all scenes or captions, in an order of its own, before one comes again."""
        count = self._num_prompts(entry)
        if count == 1:
            return 0
        return int(_permute_one(serial % count, count, *_constants(count, derived_key(self.seed, entry.key))))

    def prompt(self, entry: ClassEntry, choice: int) -> str:
        """One of the prompts that a class can get."""
        if self.captions:
            return self.captions[entry.key][choice]
        return prompt(entry, self.template, self.backgrounds[choice] if self.backgrounds else None)


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
    kernel: Any = _permute_all  # numba.njit is typed as if it took no arguments
    result_N: np.ndarray = kernel(np.ascontiguousarray(indices_N, dtype=np.uint64), size, *_constants(size, key))
    return result_N


def _constants(size: int, key: int) -> tuple[np.uint64, np.ndarray]:
    """Bits of half a block, and the key of each round."""
    half = max(1, (max(1, (size - 1).bit_length()) + 1) // 2)
    keys = [(key + number * 0x9E3779B97F4A7C15) % 2**64 for number in range(FEISTEL_ROUNDS)]
    return np.uint64(half), np.array(keys, dtype=np.uint64)


@numba.njit(cache=True, nogil=True)
def _permute_one(index, size, half, round_keys):  # type: ignore
    mask = (np.uint64(1) << half) - np.uint64(1)
    value = np.uint64(index)  # int64 and uint64 together would be float64
    while True:
        left, right = value >> half, value & mask
        for key in round_keys:
            # SplitMix64's finaliser (Steele et al., 2014): every input bit reaches every output bit.
            mixed = right + key
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
            left, right = right, left ^ (mixed & mask)
        value = (left << half) | right
        if value < np.uint64(size):
            return value


@numba.njit(cache=True, nogil=True)
def _permute_all(indices_N, size, half, round_keys):  # type: ignore
    result_N = np.empty_like(indices_N)
    for number in range(indices_N.size):
        result_N[number] = _permute_one(indices_N[number], size, half, round_keys)
    return result_N
