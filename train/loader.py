"""Multi-crop batches from the shards of a data set, by DALI: on the GPU where there is one, else on the CPU.

Shards are dealt to the ranks; where there are fewer shards than ranks, every rank reads its part of all. An epoch's
pipeline is a pure function of (seed, epoch, rank): shards are shuffled across, samples within DALI's buffer. A
pipeline is built in about ten milliseconds, so each epoch has a new one, and a run that was stopped goes on with
the very batches that it would have seen.

A corrupt image ends a DALI pipeline. Then the rank's shards are scanned (`quarantine.py`), what is bad is left out
by an index of the run's own, and the epoch goes on with a new pipeline; other ranks only wait.

Shapes: B images of a batch, N crops of one image, C x H x W of a crop.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthclone.gen.shards import Dataset, Shard
from synthclone.train.crops import CropPolicy, crop_kinds, random_crop
from synthclone.train.dali import Dali, load_dali
from synthclone.train.quarantine import index_path, quarantine
from synthclone.train.shard_index import read_index

READER = "shards"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's crops, grouped by resolution, and the label of each image."""

    crops: tuple[Tensor, ...]
    """One tensor for each resolution, (N B) x C x H x W: all images' first crop, then all images' second, ..."""
    labels_B: Tensor


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What a rank's pipeline is made of."""

    policy: CropPolicy
    batch_size: int
    """Images a step and rank."""
    num_threads: int
    seed: int
    rank: int
    world_size: int
    device_id: int | None
    """Index of the GPU; None decodes and crops on the CPU."""
    run_folder: Path
    """Where the indices without bad samples lie."""


class Loader:
    """A rank's batches, epoch by epoch."""

    def __init__(self, dataset: Dataset, config: LoaderConfig) -> None:
        self.dataset = dataset
        self.config = config
        dealt = len(dataset.shards) >= config.world_size
        self.shards = dataset.shards[config.rank :: config.world_size] if dealt else dataset.shards
        self.part, self.num_parts = (0, 1) if dealt else (config.rank, config.world_size)
        dataset.fetch(self.shards)

    def num_images(self) -> int:
        """Images of this rank, without those in quarantine."""
        total = sum(len(read_index(self.index(shard))) for shard in self.shards)
        return total * (self.part + 1) // self.num_parts - total * self.part // self.num_parts

    def index(self, shard: Shard) -> Path:
        """The shard's own index, or the run's where a sample of it is in quarantine."""
        own = index_path(self.config.run_folder, shard)
        return own if own.is_file() else shard.index

    def num_steps(self) -> int:
        """Full batches of this rank in an epoch.

        Raises:
            ValueError: there is not one.
        """
        steps = self.num_images() // self.config.batch_size
        if steps == 0:
            raise ValueError(
                f"{self.dataset.storage.url} has {self.num_images()} readable images for rank {self.config.rank}, less "
                f"than one batch of {self.config.batch_size}; give a smaller --batch-size"
            )
        return steps

    def batches(self, epoch: int, num_steps: int) -> Iterator[Batch]:
        """Exactly `num_steps` batches, all full; an epoch that is too short starts over.

        Raises:
            ValueError: a sample's JSON has no valid label.
            RuntimeError: DALI failed though every image can be read.
        """
        step, attempt = 0, 0
        while step < num_steps:
            steps = min(num_steps - step, self.num_steps())
            pipeline = self.build(epoch, attempt)
            attempt += 1
            for _ in range(steps):
                try:
                    outputs = pipeline.run()
                except RuntimeError:
                    if not quarantine(self.shards, self.config.run_folder):
                        raise  # every image can be read: the fault is another
                    break
                yield self.to_batch(outputs)
                step += 1

    def build(self, epoch: int, attempt: int) -> Any:
        """The pipeline of an epoch, already working on its first batches."""
        dali = load_dali()

        seeds = np.random.SeedSequence([self.config.seed, epoch, attempt, self.config.rank])
        generator = np.random.default_rng(seeds)
        shards = [self.shards[i] for i in generator.permutation(len(self.shards))]
        if self.num_parts > 1:
            shards = list(self.shards)  # parts are cut by position, so all ranks need the same order
        pipeline = dali.pipeline_def(enable_conditionals=True)(multi_crop)(
            dali,
            [str(shard.tar) for shard in shards],
            [str(self.index(shard)) for shard in shards],
            self.config.policy,
            (self.part, self.num_parts),
            dali.decoder(self.config.device_id),
            batch_size=self.config.batch_size,
            num_threads=self.config.num_threads,
            device_id=self.config.device_id,
            seed=int(generator.integers(2**31)),
            prefetch_queue_depth=2,
        )
        pipeline.build()
        return pipeline

    def to_batch(self, outputs: Sequence[Any]) -> Batch:
        """DALI's outputs as tensors of PyTorch's own memory."""
        *crops, texts = outputs
        labels = [self.label(bytes(row)) for row in np.asarray(texts.as_tensor())]
        kinds = crop_kinds(self.config.policy)
        tensors = iter(to_torch(crop) for crop in crops)
        grouped = tuple(torch.cat([next(tensors) for _ in range(kind.num)]) for kind in kinds)
        labels_B = torch.tensor(labels, device=grouped[0].device)
        return Batch(crops=grouped, labels_B=labels_B)

    def label(self, padded_json: bytes) -> int:
        """The label in a sample's JSON, which DALI has padded with zeros to the batch's longest."""
        row = json.loads(padded_json.rstrip(b"\0"))
        label = row.get("label")
        if not isinstance(label, int) or not 0 <= label < len(self.dataset.class_keys):
            raise ValueError(
                f"a sample of {self.dataset.storage.url} has label {label!r}; dataset.json lists "
                f"{len(self.dataset.class_keys)} classes, so labels are 0 to {len(self.dataset.class_keys) - 1}; "
                "make the data set again with `synthclone generate`"
            )
        return label


def multi_crop(
    dali: Dali, tars: list[str], indices: list[str], policy: CropPolicy, part: tuple[int, int], decoder: str
) -> tuple[Any, ...]:
    """DALI's graph: each crop in turn, global ones first, then the sample's JSON as padded bytes."""

    jpegs, texts = dali.fn.readers.webdataset(
        paths=tars,
        index_paths=indices,
        ext=["jpg", "json"],
        missing_component_behavior="error",
        random_shuffle=True,
        initial_fill=4096,
        shard_id=part[0],
        num_shards=part[1],
        name=READER,
    )
    images = dali.fn.decoders.image(jpegs, device=decoder, output_type=dali.types.RGB)
    crops = [random_crop(dali, images, policy, kind) for kind in crop_kinds(policy) for _ in range(kind.num)]
    return *crops, dali.fn.pad(texts)


def to_torch(output: Any) -> Tensor:
    """A copy of one output: DALI uses its own buffer again at the next step."""
    return torch.utils.dlpack.from_dlpack(output.as_tensor()).clone()
