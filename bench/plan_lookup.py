"""What it takes to plan 65 million images and to find any one of them: microseconds a lookup, megabytes of memory.

    python bench/plan_lookup.py --record bench/records/plan_lookup.json

ImageNet-1K, 65,000 images a class, once with definitions and once in 365 backgrounds. Memory is the whole process's peak.
The floor beside it is an empty call of a compiled kernel, which no lookup through numba can go below.
"""

import json
import resource
import statistics
import sys
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

from synthclone.engines import files
from synthclone.engines.command import run
from synthclone.gen.config import DatasetOptions, make_plan
from synthclone.gen.plan import permute
from synthclone.gen.prompts import PromptVariant

VARIANTS: tuple[PromptVariant, ...] = ("c,d", "c,h-inside-b")


@dataclass(frozen=True, kw_only=True)
class PlanLookupConfig:
    """Measure a plan's memory and its time for one image."""

    classes: str = "imagenet1k"
    """Class list."""
    per_class: int = 65_000
    """Images of each class."""
    num_lookups: int = 20_000
    """Lookups that are timed, of indices from all over the data set; the median of five rounds counts."""
    record: Path | None = None
    """JSON file to write the answer to."""


@numba.njit
def _nothing(index, size, half, round_keys):  # type: ignore
    return index


def _median_us(num_calls: int, function: Callable[..., Any], *arguments: Any) -> float:
    function(*arguments)  # compiles what is to be compiled
    rounds_s = timeit.repeat(lambda: function(*arguments), number=1, repeat=5)
    return round(1e6 * statistics.median(rounds_s) / num_calls, 3)


def measure_plans(config: PlanLookupConfig) -> dict[str, Any]:
    """The record."""
    answer: dict[str, Any] = {"num_images": 0, "results": {}}
    some: list[int] = []
    for variant in VARIANTS:
        plan = make_plan(DatasetOptions(classes=config.classes, prompt=variant, per_class=config.per_class))
        some = np.random.default_rng(0).integers(0, plan.num_images, config.num_lookups).tolist()
        answer["num_images"] = plan.num_images
        answer["results"][variant] = {"us_per_image": _median_us(len(some), plan.images, some)}
    numbers = np.array(some, dtype=np.uint64)
    answer["us_per_index_in_arrays"] = _median_us(len(some), permute, numbers, answer["num_images"], 1)
    keys = np.zeros(6, dtype=np.uint64)
    empty: Any = _nothing
    answer["us_per_empty_kernel_call"] = _median_us(
        len(some), lambda: [empty(one, 2, np.uint64(3), keys) for one in some]
    )
    answer["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)
    answer["num_lookups"] = config.num_lookups
    return answer


def main(config: PlanLookupConfig) -> None:
    """Measure, print and record."""

    answer = measure_plans(config)
    import torch

    from synthclone.bench.measure import machine  # imports PyTorch, so only after the memory was read

    answer["machine"] = machine(torch.device("cpu"))
    answer["command"] = "python bench/plan_lookup.py --record bench/records/plan_lookup.json"
    if config.record:
        config.record.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(config.record, answer)
    print(json.dumps(answer))


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(PlanLookupConfig, main, prog="bench/plan_lookup.py", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
