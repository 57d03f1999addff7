"""The folder of a training run: its configuration, its log, and refusing to mix two runs in one folder.

config.yaml                       the resolved configuration
log.jsonl                         one row an epoch
checkpoints/last.safetensors      weights and class keys, for evaluation
checkpoints/state.safetensors     what a stopped run goes on from
quarantine.json, index/           bad images, and the shards' indices without them
results.json                      written last: the run is finished
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from synthclone.engines.files import write_bytes

FREE_TO_CHANGE = ("output", "cache", "num_threads", "save_every")  # where a run lives and how fast it goes


def last_path(run_folder: Path) -> Path:
    """Weights for evaluation."""
    return run_folder / "checkpoints" / "last.safetensors"


def state_path(run_folder: Path) -> Path:
    """Where a stopped run goes on from."""
    return run_folder / "checkpoints" / "state.safetensors"


def claim(run_folder: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration, or check that the folder holds a run with the same one.

    Raises:
        ValueError: the folder holds another run; names the first option that differs.
    """
    file = run_folder / "config.yaml"
    if not file.is_file():
        write_bytes(file, yaml.safe_dump(dict(config), sort_keys=False).encode())
        return
    held = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name, value in config.items():
        if name not in FREE_TO_CHANGE and held.get(name) != value:
            raise ValueError(
                f"{run_folder} holds a run with {name} {held.get(name)!r}, not {value!r}; "
                "give another --output, or the same options to go on with that run"
            )


def read_log(run_folder: Path) -> list[dict[str, Any]]:
    """The rows of `log.jsonl`; a last row that was cut off by a kill does not count."""
    file = run_folder / "log.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def write_log(run_folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows atomically: a hundred rows are a few kilobytes."""
    write_bytes(run_folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
