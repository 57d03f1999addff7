"""Lists the engines of a folder: what each was built for, how large it is, how well it agrees with PyTorch.

    python export/list_engines.py artifacts/engines
    synthclone engines artifacts/engines --json

An engine that is damaged, unfinished or of another format is listed as such. Whether it runs on this very machine is
left to whoever opens it; `--verify` reads every file and holds it against its checksum.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthclone.engines import artifact
from synthclone.engines.command import run

COLUMNS = ("engine", "state", "backend", "precision", "ranges", "device", "MB", "build_s", "worst_error", "key")


@dataclass(frozen=True, kw_only=True)
class EnginesConfig:
    """List compiled engines with key, ranges, precision, device, size, build time and parity errors."""

    folder: Path = field(metadata={"positional": True})
    """Folder that `synthclone build` made, one engine's folder, or a folder of such folders."""
    json: bool = False
    """Print JSON instead of a table."""
    verify: bool = False
    """Hold every file against its checksum, which reads all of it."""


def engine_folders(folder: Path) -> list[Path]:
    """Folders of engines, finished or not, in a folder and in the folders in it.

    Raises:
        ValueError: there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one that `synthclone build --output` made")
    candidates = [folder, *sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))]
    found = [path for path in candidates if (path / "manifest.json").is_file() or _is_unfinished(path)]
    if not found:
        raise ValueError(
            f"{folder} holds no engines; make them with `synthclone build --model MODEL --output {folder}`"
        )
    return found


def _is_unfinished(path: Path) -> bool:
    """What a build that was killed leaves behind, or an engine whose manifest is gone."""
    if path.parent.name == "onnx":
        return False
    plans = ("plan.trt", "model.onnx", "module.json", "model.pt2")
    return (path.name.startswith(".") and path.name.endswith(".part")) or any((path / name).is_file() for name in plans)


def describe(folder: Path, *, verify: bool) -> dict[str, Any]:
    """One engine as plain data; `state` is "ok", or says what is wrong with it."""
    name = folder.name.removeprefix(".").removesuffix(".part")
    row: dict[str, Any] = {"engine": name, "folder": str(folder), "state": "unfinished (no manifest.json)"}
    if not (folder / "manifest.json").is_file():
        return row
    try:
        manifest = artifact.read_manifest(folder)
        if lacking := [key for key in ("spec", "source", "files", "device", "key", "rebuild") if key not in manifest]:
            return row | {"state": f"damaged: manifest.json lacks {', '.join(lacking)}"}
        artifact.check_files(folder, manifest, contents=verify)
        row["state"] = "ok"
    except ValueError as error:
        row["state"] = "damaged: " + str(error).removeprefix(f"{folder}: ").partition("; ")[0]
        if not isinstance(error, artifact.FilesError):
            return row
    return row | {
        "key": manifest["key"],
        "backend": manifest["backend"],
        "precision": manifest["precision"],
        "quantization": manifest["source"].get("quantization"),
        "ranges": manifest["spec"]["ranges"],
        "device": manifest["device"],
        "versions": manifest["versions"],
        "options": manifest["options"],
        "bytes": sum(entry["bytes"] for entry in manifest["files"].values()),
        "build_seconds": manifest.get("build_seconds"),
        "parity": manifest.get("parity", {}),
        "rebuild": manifest["rebuild"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows with aligned columns."""
    lines = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if "key" not in row:
        return (row["engine"], row["state"], *[""] * (len(COLUMNS) - 2))
    device = row["device"].get("name", row["device"]["type"])
    ranges = " ".join(f"{axis} {text}" for axis, text in row["ranges"].items())
    error = f"{max(row['parity'].values()):.1e}" if row["parity"] else ""
    built_s = "" if row["build_seconds"] is None else f"{row['build_seconds']:.1f}"
    size = f"{row['bytes'] / 1e6:.1f}"
    precision = "+".join(filter(None, (row["precision"], row["quantization"])))
    return (
        *(row[name] for name in ("engine", "state", "backend")),
        precision,
        *(ranges, device, size, built_s, error, row["key"][:12]),
    )


def main(config: EnginesConfig) -> None:
    """Print the list."""
    rows = [describe(folder, verify=config.verify) for folder in engine_folders(config.folder)]
    print(json.dumps(rows, indent=2) if config.json else table(rows))


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(EnginesConfig, main, prog="synthclone engines", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
