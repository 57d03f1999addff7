"""Features of all images of a source, computed piece by piece and kept in a folder of safetensors files.

    CACHE/EXTRACTOR/PIECE.safetensors     features (n, F), labels (n), prompts (n, number in a list; -1 for none)

A file's name holds the keys of extractor and piece, so that it is used again for whatever contains the same piece, and a run
that was stopped goes on with the next piece. A damaged file is made anew. Features stay in their files, mapped.

Shapes: N images in all, n of a piece, B of a batch, F features.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from synthclone.engines.files import write_bytes
from synthclone.eval.extractors import Extractor
from synthclone.eval.feature_rows import Rows
from synthclone.eval.image_sources import Item, Piece, Source
from synthclone.eval.imagefolder import prepare
from synthclone.train.checkpoint import Metadata
from synthclone.train.dali import Dali, load_dali
from synthclone.train.loader import to_torch
from synthclone.train.quarantine import fault

NOTE = "synthclone"


@dataclass(frozen=True, kw_only=True)
class PieceFeatures:
    """What is kept of a piece."""

    features_NF: Tensor
    labels_N: Tensor
    prompt_N: Tensor
    """Number in `prompts`; -1 where the image has none."""
    prompts: list[str]
    bad: list[dict[str, str]]
    """Images that were left out, and why."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of a source's readable images, in order."""

    source: Source
    pieces: list[PieceFeatures]
    num_computed: int
    """Images that were not in the cache."""

    @property
    def labels_N(self) -> np.ndarray:
        """Label of each image, by the source's own list of classes."""
        return np.concatenate([piece.labels_N.numpy() for piece in self.pieces])

    @property
    def bad(self) -> list[dict[str, str]]:
        """Images that were left out."""
        return [row for piece in self.pieces for row in piece.bad]

    def rows(self, device: torch.device) -> Rows:
        """All features."""
        return Rows(
            pieces=[piece.features_NF for piece in self.pieces], index_M=np.arange(len(self.labels_N)), device=device
        )


def compute_features(source: Source, extractor: Extractor, cache: Path, batch_size: int, num_threads: int) -> Features:
    """Features from the cache, and those that are not in it computed and kept.

    Raises:
        ValueError: a sample of a shard has no valid label, or none of the images can be read.
    """
    pieces, num_computed = [], 0
    with tqdm(
        total=sum(piece.count for piece in source.pieces), desc="features", unit="image", leave=False
    ) as progress:
        for piece in source.pieces:
            file = cache / extractor.key[:16] / f"{piece.key}.safetensors"
            kept = load_piece(file)
            if kept is None:
                save_piece(file, compute_piece(piece, extractor, batch_size, num_threads))
                num_computed += piece.count
                kept = load_piece(file)
                assert kept is not None
            for row in kept.bad:
                print(f"warning: {row['file']} is left out: {row['reason']}", file=sys.stderr)
            pieces.append(kept)
            progress.update(piece.count)
    features = Features(source=source, pieces=pieces, num_computed=num_computed)
    if not len(features.labels_N):
        raise ValueError(f"none of the {len(features.bad)} images in {source.location} can be read")
    return features


def load_piece(file: Path) -> PieceFeatures | None:
    """A kept piece; None if there is none, or it is damaged."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as tensors:
            features_NF, labels_N, prompt_N = (tensors.get_tensor(name) for name in ("features", "labels", "prompts"))
            note = tensors.metadata()
        if note["sha256"] != digest(features_NF, labels_N, prompt_N, note[NOTE]):
            return None
    except (SafetensorError, KeyError, TypeError):
        return None
    return PieceFeatures(features_NF=features_NF, labels_N=labels_N, prompt_N=prompt_N, **json.loads(note[NOTE]))


def save_piece(file: Path, piece: PieceFeatures) -> None:
    """Keep a piece."""
    tensors = {"features": piece.features_NF, "labels": piece.labels_N, "prompts": piece.prompt_N}
    note = json.dumps({"prompts": piece.prompts, "bad": piece.bad})
    write_bytes(
        file,
        save(tensors, metadata={NOTE: note, "sha256": digest(piece.features_NF, piece.labels_N, piece.prompt_N, note)}),
    )


def digest(features_NF: Tensor, labels_N: Tensor, prompt_N: Tensor, note: str) -> str:
    """sha256 of all that a file keeps."""
    whole = hashlib.sha256(note.encode())
    for tensor in (features_NF, labels_N, prompt_N):
        whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()


def compute_piece(piece: Piece, extractor: Extractor, batch_size: int, num_threads: int) -> PieceFeatures:
    """Features of a piece's readable images."""
    # Looked at first, and not only when DALI stops: a pipeline fed from Python that has stopped at a bad image takes the
    # whole process along (segmentation fault in DALI 2.4, on the CPU). It is done once; features are kept.
    items, bad = readable_items(piece.items())
    features_NF = embed_items(items, extractor, batch_size, num_threads)
    if not features_NF.isfinite().all():
        raise ValueError(f"{extractor.name} gives features that are NaN or Inf; give weights that are whole")
    prompts = sorted({item.prompt for item in items if item.prompt is not None})
    numbers: dict[str | None, int] = {prompt: number for number, prompt in enumerate(prompts)}
    return PieceFeatures(
        features_NF=features_NF,
        labels_N=torch.tensor([item.label for item in items], dtype=torch.int64),
        prompt_N=torch.tensor([numbers.get(item.prompt, -1) for item in items], dtype=torch.int64),
        prompts=prompts,
        bad=bad,
    )


def readable_items(items: Sequence[Item]) -> tuple[list[Item], list[dict[str, str]]]:
    """The images that can be decoded, and what is wrong with each of the others."""
    with ThreadPoolExecutor() as pool:
        faults = list(pool.map(lambda item: fault(item.read()), items))
    bad = [{"file": item.name, "reason": why} for item, why in zip(items, faults, strict=True) if why]
    return [item for item, why in zip(items, faults, strict=True) if not why], bad


@torch.inference_mode()
def embed_items(items: Sequence[Item], extractor: Extractor, batch_size: int, num_threads: int) -> Tensor:
    """Features n x F, fp32 on the host.

    Raises:
        RuntimeError: an image cannot be decoded.
    """
    if not items:
        return torch.zeros(0, extractor.num_features)
    dali, device_id = load_dali(), extractor.device.index
    pipeline = dali.pipeline_def(prepared_images)(
        dali,
        encoded_batches(items, batch_size),
        extractor.metadata,
        dali.decoder(device_id),
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=device_id,
    )
    pipeline.build()
    num_batches = -(-len(items) // batch_size)
    features = [extractor.embed(to_torch(pipeline.run()[0])).float().cpu() for _ in range(num_batches)]
    return torch.cat(features)


def encoded_batches(items: Sequence[Item], batch_size: int) -> Iterator[list[np.ndarray]]:
    """The encoded images, a batch at a time."""
    for start in range(0, len(items), batch_size):
        yield [np.frombuffer(item.read(), dtype=np.uint8) for item in items[start : start + batch_size]]


def prepared_images(dali: Dali, source: Iterator[list[np.ndarray]], metadata: Metadata, decoder: str) -> Any:
    """DALI's graph: bytes from Python, then what `synthclone eval` does."""
    encoded = dali.fn.external_source(source=source, dtype=dali.types.UINT8, ndim=1)
    return prepare(dali, encoded, metadata, decoder)
