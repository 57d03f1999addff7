"""Training by DeepSpeed: the engine, one epoch, and what is kept so that a stopped run goes on.

Stage 0 of ZeRO: a ResNet-50's 25.6 million parameters need no sharding, and its state then loads into any number of
ranks. BatchNorm's running statistics are each rank's own; rank 0's are the ones that are saved.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from synthclone.train.checkpoint import Metadata, load_weights, read_tensors, save_tensors
from synthclone.train.loader import Batch
from synthclone.train.ranks import Rank, reduce_sum
from synthclone.train.recipe import MultiCrop, learning_rate, parameter_groups
from synthclone.train.run_folder import last_path, state_path

Precision = Literal["fp32", "bf16"]
MOMENTUM_PREFIX = "momentum."


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over the run."""

    peak: float
    warmup_epochs: float
    epochs: int


def make_engine(model: MultiCrop, *, weight_decay: float, batch_size: int, precision: Precision) -> Any:
    """DeepSpeed's engine around a model, with SGD. The learning rate is set before each step."""
    import deepspeed

    optimizer = torch.optim.SGD(parameter_groups(model, weight_decay), lr=0.0, momentum=0.9)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": batch_size,
            "zero_optimization": {"stage": 0},
            # not `bf16.enabled`: it casts the weights, and BatchNorm on a CPU then fails on mixed types
            "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16"},
            "steps_per_print": None,
        },
    )
    engine.module.to(memory_format=torch.channels_last)  # before `initialize` it raises; see DeepSpeed's stage 0
    return engine


def train_epoch(
    engine: Any, batches: Iterable[Batch], *, epoch: int, num_steps: int, schedule: Schedule, rank: Rank
) -> dict[str, float]:
    """One epoch.

    Returns:
        The row of the log: loss and top-1 of the training crops, images/s over all ranks, and where the time went.

    Raises:
        ValueError: the loss is no longer finite.
    """
    engine.train()
    loss_sum = torch.zeros((), device=rank.device)
    correct_sum = torch.zeros((), device=rank.device)
    num_images, data_wait_s, start_s = 0, 0.0, time.perf_counter()
    iterator = iter(batches)
    for step in tqdm(range(num_steps), desc=f"epoch {epoch + 1}/{schedule.epochs}", disable=rank.rank > 0, leave=False):
        waiting_since_s = time.perf_counter()
        batch = next(iterator)
        data_wait_s += time.perf_counter() - waiting_since_s
        lr = learning_rate(
            epoch + (step + 1) / num_steps,
            peak=schedule.peak,
            warmup_epochs=schedule.warmup_epochs,
            epochs=schedule.epochs,
        )
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        crops = [crop.to(rank.device, memory_format=torch.channels_last) for crop in batch.crops]
        loss, num_correct = engine(crops, batch.labels_B.to(rank.device))
        engine.backward(loss)
        engine.step()
        loss_sum += loss.detach()
        correct_sum += num_correct
        num_images += len(batch.labels_B)
    loss_total, correct_total, images_total = reduce_sum([float(loss_sum), float(correct_sum), num_images], rank)
    seconds = time.perf_counter() - start_s
    loss_mean = loss_total / (num_steps * rank.world_size)
    if not math.isfinite(loss_mean):
        raise ValueError(
            f"the loss is {loss_mean} in epoch {epoch + 1}; give a lower --learning-rate or --precision fp32, and "
            "another --output"
        )
    return {
        "epoch": epoch + 1,
        "loss": loss_mean,
        "top1_train_crops": correct_total / images_total,
        "learning_rate": lr,
        "images_per_s": images_total / seconds,
        "data_wait_s": data_wait_s,
        "compute_s": seconds - data_wait_s,
    }


def save_state(engine: Any, metadata: Metadata, run_folder: Path) -> None:
    """Write the weights, and with them what a stopped run needs; each file whole or not at all."""
    model = engine.module.classifier
    weights: dict[str, Tensor] = dict(model.state_dict())
    momentum = {
        MOMENTUM_PREFIX + name: engine.optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
    }
    # the state first: a run killed between the two writes `last` again when it goes on
    save_tensors(state_path(run_folder), weights | momentum, metadata)
    save_tensors(last_path(run_folder), weights, metadata)


def load_state(engine: Any, run_folder: Path) -> int:
    """Go on from the last saved state, if there is one; returns the number of finished epochs."""
    file = state_path(run_folder)
    if not file.is_file():
        return 0
    tensors, metadata = read_tensors(file)
    assert metadata is not None, f"{file} has no metadata"
    model = engine.module.classifier
    momentum = {name: value for name, value in tensors.items() if name.startswith(MOMENTUM_PREFIX)}
    load_weights(model, {name: value for name, value in tensors.items() if name not in momentum}, str(file))
    for name, parameter in model.named_parameters():
        buffer = torch.empty_like(parameter)  # in the parameter's memory format, as SGD makes it
        engine.optimizer.state[parameter]["momentum_buffer"] = buffer.copy_(momentum[MOMENTUM_PREFIX + name])
    last = last_path(run_folder)
    if not last.is_file() or read_tensors(last)[1] != metadata:
        save_tensors(last, model.state_dict(), metadata)
    return metadata.epoch


def finished(metadata: Metadata, epoch: int) -> Metadata:
    """The metadata after `epoch` finished epochs."""
    return replace(metadata, epoch=epoch)
