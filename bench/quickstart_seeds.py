"""The quickstart over several seeds: accuracies, their spread, and the time of every stage.

    python bench/quickstart_seeds.py --seeds "[0, 1, 2]"        # about 7 minutes a seed on two CPU cores

Runs `synthclone quickstart` as a user does, in a process of its own for each seed, each from nothing, and writes
`bench/records/quickstart.json`. The last line is one line of JSON.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthclone.engines import files
from synthclone.engines.command import run

KEPT = (
    "top1_synthetic",
    "top1_real",
    "num_synthetic",
    "num_test",
    "seconds",
    "peak_memory_bytes",
    "accuracy",
    "stage_seconds",
)


@dataclass(frozen=True, kw_only=True)
class SeedsConfig:
    """Run the quickstart once for each seed and record the spread."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of data set and training."""
    output: Path = Path("artifacts/quickstart_seeds")
    """Folder for the runs; emptied first."""
    record: Path = Path("bench/records/quickstart.json")
    """Where the record goes."""


def main(config: SeedsConfig) -> None:
    """Run all seeds, write the record, print the summary."""
    shutil.rmtree(config.output, ignore_errors=True)
    rows: list[dict[str, Any]] = []
    for seed in config.seeds:
        folder = config.output / str(seed)
        words = [sys.executable, "-m", "synthclone.cli", "quickstart", "--seed", str(seed), "--output", str(folder)]
        start_s = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        results = files.read_json(folder / "results.json")
        wall_s = round(time.perf_counter() - start_s, 1)
        rows.append({"seed": seed, "wall_seconds": wall_s, **{name: results[name] for name in KEPT}})
    summary = {name: spread([row[name] for row in rows]) for name in ("top1_synthetic", "top1_real", "wall_seconds")}
    record = {
        "command": "python bench/quickstart_seeds.py",
        "date": time.strftime("%Y-%m-%d"),
        "machine": results["machine"],
        "quickstart": {name: results[name] for name in ("prompt", "guidance", "solver", "steps")},
        "summary": summary,
        "runs": rows,
    }
    files.write_json(config.record, record)
    print(json.dumps(summary))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(SeedsConfig, main, prog="bench/quickstart_seeds.py", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
