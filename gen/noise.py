"""An image's own noise: a counter-based generator keyed by (dataset seed, class, serial number).

It depends on nothing else: not on batch, rank, shard, resume or worker count, nor on which other classes there are.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch  # a plan is read without the memory that PyTorch takes


def image_seed(dataset_seed: int, class_key: str, serial: int) -> str:
    """The 128-bit key of an image's noise, as 32 hex digits."""
    return hashlib.blake2b(f"{dataset_seed}/{class_key}/{serial}".encode(), digest_size=16).hexdigest()


def retry_seed(seed: str, attempt: int) -> str:
    """The key of an image's noise at a later attempt, as 32 hex digits; attempt 0 is the image's own."""
    if attempt == 0:
        return seed
    return hashlib.blake2b(f"{seed}/retry/{attempt}".encode(), digest_size=16).hexdigest()


def initial_noise(seeds: Sequence[str], shape_CHW: tuple[int, int, int]) -> "torch.Tensor":
    """Standard normal noise (B, C, H, W), float32 on the CPU, from NumPy's Philox generator (Salmon et al., 2011)."""
    import torch

    rows = [
        np.random.Generator(np.random.Philox(key=int(seed, 16))).standard_normal(shape_CHW, dtype=np.float32)
        for seed in seeds
    ]
    return torch.from_numpy(np.stack(rows))
