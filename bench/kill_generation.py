"""Twenty SIGKILLs at random moments: is the data set the one of an unbroken run, byte by byte?

    python bench/kill_generation.py --engines DIR             one process, then two local workers, twenty kills each

One process is killed itself; of the two workers' run, by the toss of a coin, a worker (which the run must survive) or the
supervisor (after which the run is started again). Ends with one JSON line, which is also the record; exit code 1 if a
byte differs.
"""

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from synthclone.bench import measure
from synthclone.engines import files
from synthclone.engines.command import run


@dataclass(frozen=True, kw_only=True)
class KillConfig:
    """Kill generations at random moments and compare what comes out with an unbroken one."""

    engines: Path
    """Folder that `synthclone build --model gen/models/digits` made."""
    kills: int = 20
    """SIGKILLs of each of the two kinds of run."""
    per_class: int = 60
    """Images of each of the ten classes."""
    batch: int = 16
    """Images per batch."""
    longest_s: float = 6.0
    """A kill comes at a random moment up to so many seconds after the one before, or after the manifest is there."""
    seed: int = 0
    """Of the moments."""
    record: Path | None = Path("bench/records/kill_generation.json")
    """Where the result goes besides the screen."""

    def __post_init__(self) -> None:
        if min(self.kills, self.per_class, self.batch) < 1 or self.longest_s <= 0:
            raise ValueError("kills, per-class and batch must be at least 1, and longest-s over 0")


def main(config: KillConfig) -> None:
    """Make the unbroken set, then both kinds of broken ones."""
    answer: dict[str, Any] = {
        "benchmark": "kill_generation",
        "machine": measure.machine(torch.device("cpu")),
        "kills": config.kills,
        "seed": config.seed,
    }
    with tempfile.TemporaryDirectory() as name:
        folder, chance = Path(name), random.Random(config.seed)
        process = start(config, folder / "unbroken", ())
        if process.wait() != 0:
            raise RuntimeError(f"the unbroken run failed with exit code {process.returncode}")
        expected = digests(folder / "unbroken")
        answer["num_files"] = len(expected)
        kinds: dict[str, tuple[str, ...]] = {
            "one_process": (),
            "two_local_workers": ("--distributor", "local", "--workers", "2", "--retries", str(config.kills + 1)),
        }
        for kind, more in kinds.items():
            told = break_often(config, folder / kind, more, chance)
            answer[kind] = told | {"identical": digests(folder / kind) == expected}
            print(f"{kind}: {answer[kind]}", file=sys.stderr, flush=True)
    if config.record is not None:
        files.write_json(config.record, answer)
    print(json.dumps(answer))
    if not all(answer[kind]["identical"] for kind in kinds):
        raise SystemExit(1)


def start(config: KillConfig, output: Path, more: Sequence[str]) -> subprocess.Popen[bytes]:
    """A generation in a process of its own."""
    words = [
        "--engines",
        config.engines,
        "--classes",
        "digits",
        "--prompt",
        "c,d",
        "--guidance",
        "2",
        "--solver",
        "ddim",
    ]
    words += [
        "--steps",
        "8",
        "--per-class",
        config.per_class,
        "--shard-size",
        "20",
        "--batch",
        config.batch,
        "--device",
        "cpu",
    ]
    line = [sys.executable, "-m", "synthclone.cli", "generate", *map(str, words), "--output", str(output), *more]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def break_often(config: KillConfig, output: Path, more: Sequence[str], chance: random.Random) -> dict[str, int]:
    """Kill a run as often as asked for, starting it again each time it is gone, and then let it get through."""
    kills = workers_killed = starts = 0
    process = start(config, output, more)
    while kills < config.kills:
        if process.poll() is not None:  # it got through too early: some finished shards go, and it has work again
            for marker in sorted(output.glob("[0-9]*.json"))[::2]:
                marker.unlink()
            process, starts = start(config, output, more), starts + 1
        while not (output / "dataset.json").is_file() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, config.longest_s))
        workers = children(process)
        if workers and chance.random() < 0.5:
            chance.choice(workers).kill()
            workers_killed += 1
        elif process.poll() is None:
            process.kill()
            process.wait()
        else:
            continue
        kills += 1
    if process.poll() is None:
        process.wait()
    while process.returncode != 0:
        process, starts = start(config, output, more), starts + 1
        process.wait()
    return {"kills": kills, "of_workers": workers_killed, "starts": starts + 1}


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The workers that a run has started."""
    try:
        return [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file but the manifest, which records the batch, and the leftovers of killed writers."""
    names = (path for path in sorted(folder.iterdir()) if path.name != "dataset.json" and not path.name.startswith("."))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(KillConfig, main, prog="bench/kill_generation.py", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
