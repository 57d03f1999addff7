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
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from synthclone.engines import artifact, files
from synthclone.engines.artifact import EngineError
from synthclone.engines.backend import Engine, Runtime
from synthclone.engines.device_stream import LANES, make_lane
from synthclone.engines.spec import AxisRange, EngineSpec
from synthclone.export.components import ENGINES, make_module

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a folder of engines says of itself; nothing is loaded."""

    folder: Path
    """Where the engines lie."""
    info: Mapping[str, Any]
    """The content of `pipeline.json`."""
    manifests: Mapping[str, Mapping[str, Any]]
    """The three engines' manifests."""

    @property
    def engine_keys(self) -> dict[str, str]:
        """The three engines' keys, for the data set's manifest."""
        return {name: manifest["key"] for name, manifest in self.manifests.items()}

    @property
    def rows_depend_on_batch(self) -> bool:
        """Whether, when it was checked, an engine gave a row other bits in another batch or at another place in it."""
        return any(
            error > 0
            for name in ("unet", "vae_decoder")
            for point, error in self.manifests[name]["parity"].items()
            if not point.endswith("_vs_reference")
        )

    @cached_property
    def decoder_spec(self) -> EngineSpec:
        """The signature of the decoder, from which sizes of images and batches follow."""
        return EngineSpec.from_json(self.manifests["vae_decoder"]["spec"])

    def pixels(self, height: int, width: int) -> dict[str, int]:
        """Sizes for a sampler from options in which 0 is the size that the engines are tuned for.

        Raises:
            ValueError: a size that the engines do not take.
        """
        spec = self.decoder_spec
        fixed = dict(zip(("height", "width"), spec.outputs[0].axes[-2:], strict=True))
        wanted = {name: size for name, size in (("height", height), ("width", width)) if size}
        for name, size in wanted.items():
            allowed = spec.ranges.get(name)
            if (size != fixed[name]) if allowed is None else not allowed.holds(size):
                raise ValueError(
                    f"--{name} {size} is not among the engines' {allowed or fixed[name]}; build them with another --{name}"
                )
        return {name: size for name, size in wanted.items() if name in spec.ranges}

    def image_shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the images that such options give."""
        spec = self.decoder_spec
        shape = spec.outputs[0].shape({**spec.sizes("optimum"), **self.pixels(height, width)})
        return shape[-2], shape[-1]

    @property
    def batches(self) -> AxisRange:
        """Images per batch that every engine takes, guidance included."""
        return self.decoder_spec.ranges["batch"]


@dataclass(frozen=True, kw_only=True)
class Pipeline(Description):
    """Everything that sampling needs."""

    text_encoder: Engine
    unet: Engine
    vae_decoder: Engine
    tokenizer: Any
    """transformers' CLIPTokenizer."""

    @property
    def device(self) -> torch.device:
        """Where the engines run."""
        return self.unet.device


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


def describe_pipeline(folder: Path) -> Description:
    """Read what a folder of engines says of itself.

    Raises:
        EngineError: an engine is missing or not finished.
    """
    manifests = {name: artifact.read_manifest(folder / name) for name in ENGINES}
    return Description(folder=folder, info=read_info(folder), manifests=manifests)


def open_pipeline(folder: Path, device: torch.device) -> Pipeline:
    """Load the three engines.

    Raises:
        EngineError: no engines there, they do not match this machine, or the checkpoint has changed since.
    """
    from transformers import CLIPTokenizer

    check_unchanged(folder, read_info(folder))
    described = describe_pipeline(folder)
    # One stream and one block of scratch memory for the three, which never run at the same time.
    runtime = Runtime(lane=make_lane(device) if device.type in LANES else None, cuda_graphs=True)
    engines = {
        name: artifact.open_engine(folder / name, device=device, make_module=make_module, runtime=runtime)
        for name in ENGINES
    }
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return Pipeline(folder=folder, info=described.info, manifests=described.manifests, tokenizer=tokenizer, **engines)


def check_unchanged(folder: Path, info: Mapping[str, Any]) -> None:
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
