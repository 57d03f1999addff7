"""The engine artifact: a folder with a plan's files and `manifest.json`, which is written last.

    build(...)   builds, checks and installs an engine, unless the folder already holds the very same one
    open_engine  loads one, after holding its manifest against its files, this machine and these libraries

The key hashes the source (graph and weights), the spec with its ranges, precision, backend with its versions, and the
device. A folder without a manifest is an unfinished build and counts for nothing.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synthclone.engines import backend as backends
from synthclone.engines import files, parity
from synthclone.engines.backend import Engine, Source
from synthclone.engines.spec import EngineSpec, Precision

FORMAT = 1


class EngineError(ValueError):
    """An engine that cannot be used as it is; the message says why and how to rebuild it."""


def engine_identity(
    spec: EngineSpec, precision: Precision, digests: Mapping[str, str], backend: str, device: torch.device
) -> dict[str, Any]:
    """Everything that the engine's key hashes, as plain data; `digests` are those of `Source`."""
    return {
        "spec": spec.to_json(),
        "precision": precision,
        "source": dict(digests),
        "backend": backend,
        "versions": backends.find(backend).versions(),
        "device": backends.device_identity(device),
    }


def key_of(identity: Mapping[str, Any]) -> str:
    """The first 32 hex digits of the identity's sha256."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def is_built(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the folder holds a finished engine of exactly this identity, with files of the recorded sizes."""
    if not (folder / "manifest.json").exists():
        return False
    manifest = files.read_json(folder / "manifest.json")
    return manifest.get("key") == key_of(identity) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
        for name, entry in manifest["files"].items()
    )


def build(
    spec: EngineSpec,
    source: Source,
    reference: nn.Module,
    *,
    backend: str,
    folder: Path,
    device: torch.device,
    make_module: Callable[[Any], nn.Module],
    rebuild_command: str,
) -> dict[str, Any]:
    """Build an engine, hold it against the reference, and install it under `folder`; returns its manifest.

    Args:
        spec: signature and ranges.
        source: the component in its precision.
        reference: the same component in fp32 on the CPU, called like `source.module`.
        backend: name of a backend.
        folder: where the artifact goes; replaced only when the new engine has passed.
        device: where it will run.
        make_module: makes a module from `source.config` (needed by the eager backend to load).
        rebuild_command: what a user runs to build it again; quoted in later errors.

    Raises:
        EngineError: the engine disagrees with the reference; the message names the point and the error.
    """
    identity = engine_identity(spec, source.precision, source.digests, backend, device)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    start_s = time.perf_counter()
    backends.find(backend).build(spec, source, part, device)
    build_seconds = time.perf_counter() - start_s
    engine = backends.find(backend).load(part, spec, device, make_module)
    errors = parity.check(engine, reference, source.precision)
    del engine
    manifest = {
        "format": FORMAT,
        "key": key_of(identity),
        **identity,
        "files": {
            str(path.relative_to(part)): {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
            for path in sorted(part.rglob("*"))
            if path.is_file()
        },
        "parity": errors,
        "build_seconds": round(build_seconds, 3),
        "rebuild": rebuild_command,
    }
    files.write_json(part / "manifest.json", manifest)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an engine folder.

    Raises:
        EngineError: there is none, or it is damaged or of another format.
    """
    if not (folder / "manifest.json").is_file():
        raise EngineError(f"{folder} holds no finished engine (no manifest.json); build it with `synthclone build`")
    manifest: dict[str, Any] = files.read_json(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise EngineError(
            f"{folder}: manifest format {manifest.get('format')}, this version reads {FORMAT}; build it again"
        )
    return manifest


def open_engine(folder: Path, *, device: torch.device, make_module: Callable[[Any], nn.Module]) -> Engine:
    """Load a finished engine.

    Raises:
        EngineError: manifest, files, libraries or device do not match; the message says which, and the rebuild command.
    """
    manifest = read_manifest(folder)

    def refuse(reason: str) -> EngineError:
        return EngineError(f"{folder}: {reason}; build it again with `{manifest['rebuild']}`")

    identity = {name: manifest[name] for name in ("spec", "precision", "source", "backend", "versions", "device")}
    if key_of(identity) != manifest["key"]:
        raise refuse("the manifest was changed after the build (its key does not match its content)")
    backend = backends.find(manifest["backend"])
    if (here := backend.versions()) != manifest["versions"]:
        raise refuse(f"built with {_pairs(manifest['versions'])}, but here is {_pairs(here)}")
    if (here := backends.device_identity(device)) != manifest["device"]:
        raise refuse(f"built for {_pairs(manifest['device'])}, but this device is {_pairs(here)}")
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise refuse(f"{name} is missing")
        if path.stat().st_size != entry["bytes"]:
            raise refuse(f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']} (truncated?)")
        if files.sha256(path) != entry["sha256"]:
            raise refuse(f"{name} was changed after the build (its sha256 differs)")
    return backend.load(folder, EngineSpec.from_json(manifest["spec"]), device, make_module)


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
