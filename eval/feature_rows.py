"""Rows of features that lie in several tensors, read only as far as they are asked for.

Shapes: N rows in all, M and K rows chosen, F features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

ROWS_PER_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A choice of rows; the tensors themselves stay where they are (mapped files, for what comes from the cache)."""

    pieces: Sequence[Tensor]
    """n x F each, one after the other."""
    index_M: np.ndarray
    """Which rows, ascending."""
    device: torch.device

    def __len__(self) -> int:
        return len(self.index_M)

    @property
    def num_features(self) -> int:
        """F."""
        return int(self.pieces[0].shape[1])

    def choose(self, places_K: np.ndarray) -> "Rows":
        """Those at some places (or under a mask) of this choice."""
        return replace(self, index_M=np.sort(self.index_M[places_K]))

    def draw(self, count: int, generator: np.random.Generator) -> "Rows":
        """`count` rows without repetition, or all if there are not more."""
        return self if count >= len(self) else self.choose(generator.choice(len(self), count, replace=False))

    def tensor(self) -> Tensor:
        """All chosen rows, M x F, in float64 on the device: what is computed from them are small differences."""
        starts = np.concatenate([[0], np.cumsum([len(piece) for piece in self.pieces])])
        cuts = np.searchsorted(self.index_M, starts)
        parts = [
            piece[torch.from_numpy(self.index_M[cuts[i] : cuts[i + 1]] - starts[i])]
            for i, piece in enumerate(self.pieces)
            if cuts[i] < cuts[i + 1]
        ]
        return torch.cat([self.pieces[0][:0], *parts]).to(self.device, torch.float64)

    def blocks(self) -> Iterator[Tensor]:
        """The chosen rows in blocks of bounded size."""
        for start in range(0, len(self), ROWS_PER_BLOCK):
            yield replace(self, index_M=self.index_M[start : start + ROWS_PER_BLOCK]).tensor()
