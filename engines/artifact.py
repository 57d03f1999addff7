"""The engine artifact: a folder with a plan's files and `manifest.json`, which is written last.

    build(...)   builds, checks and installs an engine, unless the folder already holds the very same one
    open_engine  loads one, after holding its manifest against its files, this machine and these libraries

The key hashes the source (graph and weights), the spec with its ranges, precision, backend with its versions and
options, and the device. A folder without a manifest is an unfinished build and counts for nothing.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synthclone.engines import backend as backends
from synthclone.engines import files, parity
from synthclone.engines.backend import Engine, Runtime, Source
from synthclone.engines.spec import EngineSpec, Precision

FORMAT = 1
IDENTITY = ("spec", "precision", "source", "backend", "options", "versions", "device")


class EngineError(ValueError):
    """An engine that cannot be used as it is; the message says why and how to rebuild it."""


class FilesError(EngineError):
    """An engine whose files are not those that its manifest lists."""


def engine_identity(
    spec: EngineSpec,
    precision: Precision,
    digests: Mapping[str, str],
    backend: str,
    device: torch.device,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that the engine's key hashes, as plain data; `digests` are those of `Source`."""
    module = backends.find(backend)
    return {
        "spec": spec.to_json(),
        "precision": precision,
        "source": dict(digests),
        "backend": backend,
        "options": backends.plain(backends.make_options(module, backend, options or {})),
        "versions": module.versions(),
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
    options: Mapping[str, Any] | None = None,
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
        options: the backend's build options by name; those left out have their defaults.

    Raises:
        EngineError: the engine disagrees with the reference; the message names the point and the error.
    """
    module = backends.find(backend)
    identity = engine_identity(spec, source.precision, source.digests, backend, device, options)
    with unfinished(folder) as part:
        start_s = time.perf_counter()
        module.build(spec, source, part, device, backends.make_options(module, backend, options or {}))
        build_seconds = time.perf_counter() - start_s
        engine = module.load(part, spec, device, make_module, Runtime(trust_plan=True))
        errors = parity.check(engine, reference, source.precision, quantization=source.quantization)
        del engine
        extra = {"parity": errors, "build_seconds": round(build_seconds, 3), "rebuild": rebuild_command}
        return finish(part, folder, identity, extra)


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` to build in; it is gone when the block ends, unless `finish` installed it."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def finish(part: Path, folder: Path, identity: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest of the files in `part`, and put the whole in the place of `folder`."""
    manifest = {
        "format": FORMAT,
        "key": key_of(identity),
        **identity,
        "files": {
            str(path.relative_to(part)): {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
            for path in sorted(part.rglob("*"))
            if path.is_file()
        },
        **extra,
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


def open_engine(
    folder: Path,
    *,
    device: torch.device,
    make_module: Callable[[Any], nn.Module],
    runtime: Runtime | None = None,
) -> Engine:
    """Load a finished engine.

    Raises:
        EngineError: manifest, files, libraries or device do not match; the message says which, and the rebuild command.
    """
    manifest = read_manifest(folder)
    check(folder, manifest, device)
    backend, spec = backends.find(manifest["backend"]), EngineSpec.from_json(manifest["spec"])
    try:
        return backend.load(folder, spec, device, make_module, runtime or Runtime())
    except EngineError as error:
        raise EngineError(f"{folder}: {error}; build it again with `{manifest['rebuild']}`") from error


def check(folder: Path, manifest: Mapping[str, Any], device: torch.device) -> None:
    """Hold a manifest against its files, these libraries and this device.

    Raises:
        EngineError: they do not match; the message says which, and the rebuild command.
    """

    check_files(folder, manifest, contents=False)  # cheap, so first
    backend = backends.find(manifest["backend"])
    mismatch = getattr(backend, "mismatch", backends.mismatch)
    if reason := mismatch(manifest, backend.versions(), backends.device_identity(device)):
        raise EngineError(f"{folder}: {reason}; build it again with `{manifest['rebuild']}`")
    check_files(folder, manifest)


def check_files(folder: Path, manifest: Mapping[str, Any], *, contents: bool = True) -> None:
    """Hold a manifest against its own key and its files' sizes, and with `contents` against their checksums.

    Raises:
        FilesError: they do not match; the message says which, and the rebuild command.
    """

    def refuse(reason: str) -> FilesError:
        return FilesError(f"{folder}: {reason}; build it again with `{manifest['rebuild']}`")

    if key_of({name: manifest.get(name) for name in IDENTITY}) != manifest["key"]:
        raise refuse("the manifest was changed after the build (its key does not match its content)")
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise refuse(f"{name} is missing")
        if path.stat().st_size != entry["bytes"]:
            raise refuse(f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']} (truncated?)")
        if contents and files.sha256(path) != entry["sha256"]:
            raise refuse(f"{name} was changed after the build (its sha256 differs)")
