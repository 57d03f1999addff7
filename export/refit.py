"""Exchanges the weights of a built TensorRT engine, without a rebuild.

    synthclone refit --engine artifacts/engines/unet --weights artifacts/onnx/tuned/unet/model.onnx

The engine must have been built with the option `refittable`. The weights are an ONNX file with the same graph: a
fine-tuned checkpoint, or one with a LoRA merged, exported the way the engine's was; or safetensors that name some of the
graph's initialisers. The same command with the original ONNX file brings the original engine back, key and all.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synthclone.engines import artifact
from synthclone.engines import command as commands
from synthclone.engines.backend import find, pick_device


@dataclass(frozen=True, kw_only=True)
class RefitConfig:
    """Put other weights into a built TensorRT engine, without a rebuild."""

    engine: Path
    """Folder of the engine, which was built refittable."""
    weights: Path
    """New weights: an .onnx file with the engine's graph, or .safetensors with some of its initialisers."""
    out: Path | None = None
    """Folder for the new engine; left out, the engine is replaced."""
    device: str = "auto"
    """Where the engine runs: auto or cuda:N."""


def refit_engine(config: RefitConfig) -> None:
    """Refit, and say what the engine holds now."""
    backend = artifact.read_manifest(config.engine)["backend"]
    if backend != "tensorrt":
        raise ValueError(f"{config.engine} is an engine of {backend}; only those of tensorrt can be refitted")
    find("tensorrt")
    from synthclone.engines.tensorrt_refit import refit  # needs TensorRT, whose absence `find` explains

    manifest = refit(config.engine, config.weights, device=pick_device(config.device), out=config.out)
    print(f"{config.out or config.engine}: engine {manifest['key']} with the weights of {config.weights}")


def command(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return commands.run(RefitConfig, refit_engine, prog="synthclone refit", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
