"""Text embeddings of distinct prompts: each is encoded once, kept on the device, or in a memory-mapped file when they are many.

ImageNet-1K in 365 backgrounds has 365,000 distinct prompts: 43 GB of fp16 embeddings, for 13 GFLOP each that nobody wants
to spend on every one of a thousand images again.

Shapes: B prompts, L tokens, D channels.
"""

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from synthclone.export.pipeline import Pipeline

ENCODED_ROWS = 16
"""Prompts of one text encoder call, always: what a row holds must not depend on how many were asked for at once."""
BLOCK_ROWS = 1024
DEVICE_BYTES = 2 * 2**30


class Embeddings:
    """A growing table of embeddings. Not for use by several threads at once."""

    def __init__(self, pipeline: Pipeline, *, device_bytes: int = DEVICE_BYTES) -> None:
        """Start empty.

        Args:
            pipeline: its text encoder and tokenizer.
            device_bytes: what may be kept on the engines' device; the rest goes to a file in the temporary folder.
        """
        self._pipeline = pipeline
        self._device_bytes = device_bytes
        self._rows: dict[str, int] = {}
        self._blocks: list[torch.Tensor] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def gather(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embeddings (B, L, D) of prompts, on the engines' device; those not seen before are encoded."""
        self._encode(prompt for prompt in dict.fromkeys(prompts) if prompt not in self._rows)
        rows = [divmod(self._rows[prompt], BLOCK_ROWS) for prompt in prompts]
        return torch.stack([self._blocks[block][row].to(self._pipeline.device) for block, row in rows])

    def _encode(self, prompts: Iterable[str]) -> None:
        """Encode prompts and put them behind the table's last row."""
        new, encoder = list(prompts), self._pipeline.text_encoder
        length, batch = encoder.spec.inputs[0].axes[1], encoder.spec.ranges["batch"]
        num_rows = min(max(ENCODED_ROWS, batch.minimum), batch.maximum)
        for begin in range(0, len(new), num_rows):
            texts = new[begin : begin + num_rows]
            tokens_BL = self._pipeline.tokenizer(
                texts + [""] * (num_rows - len(texts)),
                padding="max_length",
                truncation=True,
                max_length=length,
                return_tensors="pt",
            ).input_ids
            text_BLD = encoder(tokens=tokens_BL.to(self._pipeline.device, torch.int32))
            for text, text_LD in zip(texts, text_BLD, strict=False):
                block, row = divmod(len(self._rows), BLOCK_ROWS)
                if block == len(self._blocks):
                    self._blocks.append(self._new_block(text_LD))
                self._blocks[block][row] = text_LD
                self._rows[text] = len(self._rows)

    def _new_block(self, like_LD: torch.Tensor) -> torch.Tensor:
        shape = (BLOCK_ROWS, *like_LD.shape)
        block_bytes = BLOCK_ROWS * like_LD.numel() * like_LD.element_size()
        if (len(self._blocks) + 1) * block_bytes <= self._device_bytes:
            return torch.empty(shape, dtype=like_LD.dtype, device=like_LD.device)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="synthclone-embeddings-")
        path = Path(self._folder.name) / f"{len(self._blocks)}.bin"
        with path.open("wb") as file:  # taken now: a full disk is an error here, and would be a crash at a mapped page
            os.posix_fallocate(file.fileno(), 0, block_bytes)
        # NumPy has no bfloat16: the file holds bytes, and PyTorch sees them in the encoder's type.
        mapped = np.memmap(path, dtype=np.uint8, mode="r+", shape=(block_bytes,))
        return torch.from_numpy(mapped).view(like_LD.dtype).view(shape)
