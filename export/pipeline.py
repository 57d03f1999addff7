"""The folder that `export/build.py` leaves and samplers load: three engines, the tokenizer and `pipeline.json`.

DIR/pipeline.json                    what it was made from: checkpoint with fingerprint, scheduler, sizes, precision
DIR/tokenizer/                       copied from the checkpoint
DIR/{text_encoder,unet,vae_decoder}/ engine artifacts
DIR/onnx/                            the exported graphs, for the next build
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synthclone.engines import artifact, files
from synthclone.engines.artifact import EngineError
from synthclone.engines.backend import Engine, Runtime
from synthclone.engines.device_stream import LANES, make_lane
from synthclone.export.components import ENGINES, make_module

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Everything that sampling needs."""

    text_encoder: Engine
    unet: Engine
    vae_decoder: Engine
    tokenizer: Any
    """transformers' CLIPTokenizer."""
    info: Mapping[str, Any]
    """The content of `pipeline.json`."""
    engine_keys: Mapping[str, str]
    """The three engines' keys, for the data set's manifest."""

    @property
    def device(self) -> torch.device:
        """Where the engines run."""
        return self.unet.device

    @property
    def max_batch(self) -> int:
        """Images per batch that every engine takes, guidance included."""
        return self.vae_decoder.spec.ranges["batch"].maximum


def fingerprint_key(fingerprint: Mapping[str, Mapping[str, Any]]) -> str:
    """One hash for all files of a checkpoint."""
    digests = {name: entry["sha256"] for name, entry in fingerprint.items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def read_info(folder: Path) -> dict[str, Any]:
    """The content of `pipeline.json`.

    Raises:
        EngineError: there is none, or it is of another format.
    """
    if not (folder / "pipeline.json").is_file():
        raise EngineError(
            f"{folder} holds no engines (no pipeline.json); make them with `synthclone build --model MODEL --output {folder}`"
        )
    info: dict[str, Any] = files.read_json(folder / "pipeline.json")
    if info.get("format") != FORMAT:
        raise EngineError(
            f"{folder}: pipeline.json has format {info.get('format')}, this version reads {FORMAT}; build it again"
        )
    return info


def open_pipeline(folder: Path, device: torch.device) -> Pipeline:
    """Load the three engines.

    Raises:
        EngineError: no engines there, they do not match this machine, or the checkpoint has changed since.
    """
    from transformers import CLIPTokenizer

    info = read_info(folder)
    _check_unchanged(folder, info)
    # One stream and one block of scratch memory for the three, which never run at the same time.
    runtime = Runtime(lane=make_lane(device) if device.type in LANES else None, cuda_graphs=True)
    engines = {
        name: artifact.open_engine(folder / name, device=device, make_module=make_module, runtime=runtime)
        for name in ENGINES
    }
    keys = {name: artifact.read_manifest(folder / name)["key"] for name in ENGINES}
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return Pipeline(**engines, tokenizer=tokenizer, info=info, engine_keys=keys)


def _check_unchanged(folder: Path, info: Mapping[str, Any]) -> None:
    """Refuse engines whose checkpoint is still at hand but is no longer the one they were built from."""
    for name, entry in info["fingerprint"].items():
        path = Path(info["model_folder"]) / name
        if not path.is_file():
            continue  # engines stand alone: the checkpoint may be gone or on another machine
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) != (entry["bytes"], entry["mtime_ns"]) and files.sha256(path) != entry[
            "sha256"
        ]:
            raise EngineError(
                f"{folder}: {path} has changed since the engines were built; build them again with `{info['rebuild']}`"
            )
