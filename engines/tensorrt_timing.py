"""The timing cache: kernel timings from earlier builds, which make the next one faster.

It lies beside the engines, one file for each TensorRT build and GPU, because it holds for no other. The file is one
line of JSON (what it belongs to, and the sha256 of the rest) and TensorRT's own bytes: TensorRT does not promise to
notice damage, so the checksum does. A cache that does not fit is left aside with a warning, and made anew.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import tensorrt as trt

from synthclone.engines import files

log = logging.getLogger("synthclone.tensorrt")


def path_beside(folder: Path, device: Mapping[str, str]) -> Path:
    """Where the cache of this TensorRT and this GPU lies, for engines in `folder`."""
    gpu = f"{device.get('name', device['type'])} sm {device.get('compute_capability', '')}"
    slug = re.sub(r"[^a-z0-9]+", "_", f"{trt.__version__} {gpu}".lower()).strip("_")
    return folder / f"tensorrt_{slug}.timing"


def attach(config: trt.IBuilderConfig, path: Path, device: Mapping[str, str]) -> None:
    """Give a build the cache under `path`, or an empty one."""
    saved = _read(path, _stamp(device))
    if saved:
        cache = config.create_timing_cache(saved)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return
        log.warning("TensorRT refuses the timing cache %s; it is made anew", path)
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def save(config: trt.IBuilderConfig, path: Path, device: Mapping[str, str]) -> None:
    """Keep what the build has timed, together with what another build has saved in the meantime."""
    cache: trt.ITimingCache = config.get_timing_cache()
    if cache is None:
        return
    saved = _read(path, _stamp(device))
    if saved:
        other = config.create_timing_cache(saved)
        if other is not None:
            cache.combine(other, ignore_mismatch=False)
    payload = bytes(cache.serialize())
    header = {**_stamp(device), "sha256": hashlib.sha256(payload).hexdigest()}
    files.write_bytes(path, json.dumps(header).encode() + b"\n" + payload)


def _stamp(device: Mapping[str, str]) -> dict[str, str]:
    return {"tensorrt": trt.__version__, **device}


def _read(path: Path, stamp: Mapping[str, str]) -> bytes:
    """TensorRT's bytes from a cache file; nothing if there is none or it is not whole."""
    if not path.is_file():
        return b""
    line, _, payload = path.read_bytes().partition(b"\n")
    try:
        header = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        header = {}
    expected = {**stamp, "sha256": hashlib.sha256(payload).hexdigest()}
    if header == expected:
        return payload
    log.warning("the timing cache %s is damaged or of another TensorRT or GPU; it is made anew", path)
    return b""
