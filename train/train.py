"""Train a classifier from scratch on a data set of shards, with multi-crop, under DeepSpeed.

    synthclone train --data artifacts/dataset --arch resnet50 --output artifacts/run
    deepspeed train/train.py --data artifacts/dataset --arch resnet50 --output artifacts/run
    synthclone train --config train/digits.yaml --data ... --output ...     # 64-pixel digits, two CPU cores

The defaults are those of ImageNet-scale runs (t-ReX's recipe): 100 epochs of 1 + 8 crops. The same command goes on
with a run that was stopped, from its last saved epoch. Scoring on real images is `synthclone eval`'s.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synthclone.engines.command import run
from synthclone.engines.files import read_json, sha256, write_json
from synthclone.export.resnet import Arch, make_model
from synthclone.gen.shards import Dataset, read_dataset
from synthclone.train import fit, ranks
from synthclone.train.checkpoint import Metadata
from synthclone.train.crops import Colour, CropPolicy, crop_kinds
from synthclone.train.fit import Precision
from synthclone.train.loader import Loader, LoaderConfig
from synthclone.train.quarantine import quarantine_rows
from synthclone.train.recipe import MultiCrop, peak_learning_rate
from synthclone.train.run_folder import claim, last_path, read_log, write_log


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a classifier from scratch on a data set of shards."""

    data: str
    """Folder or URL (s3://, gs://, hf://) of the data set: dataset.json and its shards."""
    cache: Path | None = None
    """Folder for the shards of a data set at a URL, those of this machine's ranks; by default ~/.cache/synthclone/shards."""
    output: Path
    """Folder of the run; one that holds the same run is gone on with."""
    arch: Arch = "resnet50"
    """Network: resnet18 or resnet50."""
    epochs: int = 100
    """Passes over the data set."""
    batch_size: int = 256
    """Images a step, over all ranks."""
    learning_rate: float | None = None
    """Peak learning rate; by default 0.1 x batch-size / 256."""
    warmup_epochs: float = 10.0
    """Epochs of linear warm-up from 0 to the peak; a half cosine back to 0 follows."""
    weight_decay: float = 1e-4
    """Weight decay of kernels and matrices; BatchNorm and biases have none."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes, 0 to 1."""
    precision: Precision = "bf16"
    """fp32, or bf16 by autocast (weights stay fp32)."""
    num_global: int = 1
    """Global crops an image."""
    global_size: int = 224
    """Side of a global crop in pixels; evaluation uses it too."""
    global_scale: tuple[float, float] = (0.4, 1.0)
    """Smallest and largest share of the image's area in a global crop."""
    num_local: int = 8
    """Local crops an image; 0 for none."""
    local_size: int = 96
    """Side of a local crop in pixels."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Smallest and largest share of the image's area in a local crop."""
    flip: bool = True
    """Mirror half of the crops; give --no-flip where left and right matter, as in digits."""
    colour: Colour = "full"
    """full: jitter, greying, blur and solarisation as the recipe says; none: colours stay."""
    crop_ratio: float = 0.875
    """Share of the resized shorter side that evaluation's centre crop keeps; stored in the checkpoint."""
    seed: int = 0
    """Seed of the weights, the order of the images, and the crops."""
    save_every: int = 1
    """Epochs between two savings of the run's state; the last epoch is always saved."""
    num_threads: int = 4
    """DALI's CPU threads of a rank."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "save_every", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")
        for name in ("warmup_epochs", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give 0 or more")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"--learning-rate is {self.learning_rate}; give a positive number")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"--label-smoothing is {self.label_smoothing}; give a number from 0 to below 1")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"--crop-ratio is {self.crop_ratio}; give a number above 0 and up to 1")
        self.policy()

    def policy(self) -> CropPolicy:
        """The multi-crop policy of these options."""
        names = {field.name for field in dataclasses.fields(CropPolicy)} & set(vars(self))
        return CropPolicy(**{name: getattr(self, name) for name in names})


def main(config: TrainConfig) -> dict[str, Any]:
    """Run, or go on with, a training.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: a user's mistake; nothing of an earlier run is lost.
    """
    dataset = read_dataset(config.data, config.cache)  # before anything is written or any library is loaded
    check_smallest_crop(config)
    rank = ranks.join()
    if config.batch_size % rank.world_size:
        raise ValueError(f"--batch-size {config.batch_size} is no multiple of the {rank.world_size} ranks; change one")
    if rank.rank == 0:
        claim(config.output, plain(config))
    torch.distributed.barrier()
    finished = config.output / "results.json"
    if finished.is_file():
        return dict(read_json(finished))
    start_s = time.perf_counter()
    trained = train(config, dataset, rank)
    results = {
        "what": "training",
        "arch": config.arch,
        "data": config.data,
        "num_images": dataset.num_images,
        "num_quarantined": len(quarantine_rows(config.output)),
        "num_classes": len(dataset.class_keys),
        "num_ranks": rank.world_size,
        "seed": config.seed,
        "seconds": time.perf_counter() - start_s,
        **trained,
    }
    if rank.rank == 0:
        checkpoint = last_path(config.output)
        results |= {"checkpoint": str(checkpoint), "checkpoint_sha256": sha256(checkpoint)}
        write_json(finished, results)
    return results


def train(config: TrainConfig, dataset: Dataset, rank: ranks.Rank) -> dict[str, Any]:
    """All epochs that are left; returns the last row of the log."""
    loader = Loader(
        dataset,
        LoaderConfig(
            policy=config.policy(),
            batch_size=config.batch_size // rank.world_size,
            num_threads=config.num_threads,
            seed=config.seed,
            rank=rank.rank,
            world_size=rank.world_size,
            device_id=rank.device.index,
            run_folder=config.output,
        ),
    )
    generator = torch.Generator().manual_seed(config.seed)
    model = make_model(config.arch, num_classes=len(dataset.class_keys), generator=generator)
    engine = fit.make_engine(
        MultiCrop(model, config.label_smoothing).to(rank.device),
        weight_decay=config.weight_decay,
        batch_size=config.batch_size // rank.world_size,
        precision=config.precision,
    )
    metadata = Metadata(
        arch=config.arch,
        classes=tuple(dataset.class_keys),
        image_size=config.global_size,
        crop_ratio=config.crop_ratio,
        config=plain(config),
    )
    schedule = fit.Schedule(
        peak=config.learning_rate or peak_learning_rate(config.batch_size),
        warmup_epochs=config.warmup_epochs,
        epochs=config.epochs,
    )
    first_epoch = fit.load_state(engine, config.output)
    rows = [row for row in read_log(config.output) if row["epoch"] <= first_epoch]
    for epoch in range(first_epoch, config.epochs):
        num_steps = ranks.reduce_min(loader.num_steps(), rank)
        row = fit.train_epoch(
            engine,
            loader.batches(epoch, num_steps),
            epoch=epoch,
            num_steps=num_steps,
            schedule=schedule,
            rank=rank,
        )
        rows.append(row)
        if rank.rank == 0:
            write_log(config.output, rows)
            if (epoch + 1) % config.save_every == 0 or epoch + 1 == config.epochs:
                fit.save_state(engine, fit.finished(metadata, epoch + 1), config.output)
    engine.destroy()
    return rows[-1] if rows else {}


def check_smallest_crop(config: TrainConfig) -> None:
    """Refuse crops of 16 pixels or fewer in bf16 on a CPU.

    There, the last stage's 3x3 convolution of stride 2 sees a map of 1x1, and PyTorch 2.13 returns its weight gradient
    with memory that nobody has written: NaN, or 1e19. With 17 pixels the map is 2x2 and the gradient right.
    """
    smallest = min(kind.size for kind in crop_kinds(config.policy()))
    if config.precision == "bf16" and smallest <= 16 and not torch.cuda.is_available():
        raise ValueError(
            f"crops of {smallest} pixels have no right gradient in bf16 on a CPU; give sizes of 17 or more, or "
            "--precision fp32"
        )


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration with values that YAML and JSON know."""
    values = dataclasses.asdict(config)
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = ranks.without_launcher_options(sys.argv[1:] if argv is None else argv)
    return run(TrainConfig, main, prog="synthclone train", argv=arguments)


if __name__ == "__main__":
    sys.exit(command())
