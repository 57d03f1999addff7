"""Exchanges the weights of a built TensorRT engine, without a rebuild.

    synthclone refit --engine artifacts/engines/unet --lora style.safetensors --lora-scale 0.8
    synthclone refit --engine artifacts/engines/unet --weights artifacts/tuned/onnx/unet-fp16/model.onnx

The engine must have been built with the option `refittable`. A LoRA is merged into the weights of the checkpoint that
the engine was built from. Weights are an ONNX file with the same graph, from a fine-tuned checkpoint that was exported
the way the engine's was; or safetensors that name some of the graph's initialisers. `--weights` with the original ONNX
file (`onnx/` beside the engine), or `--lora-scale 0`, brings the original weights back.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synthclone.engines import artifact
from synthclone.engines import command as commands
from synthclone.engines.backend import find, pick_device
from synthclone.engines.spec import EngineSpec
from synthclone.export import components, diffusion, graph, pipeline
from synthclone.export.lora import read_lora


@dataclass(frozen=True, kw_only=True)
class RefitConfig:
    """Put other weights into a built TensorRT engine, without a rebuild."""

    engine: Path
    """Folder of the engine, which was built refittable."""
    weights: Path | None = None
    """New weights: an .onnx file with the engine's graph, or .safetensors with some of its initialisers."""
    lora: Path | None = None
    """LoRA to merge into the weights that the engine was built from, a .safetensors file."""
    lora_scale: float = 1.0
    """Strength of the LoRA; 0 brings the original weights back."""
    out: Path | None = None
    """Folder for the new engine; left out, the engine is replaced."""
    device: str = "auto"
    """Where the engine runs: auto or cuda:N."""

    def __post_init__(self) -> None:
        if (self.weights is None) == (self.lora is None):
            raise ValueError("give either --weights or --lora")


def refit_engine(config: RefitConfig) -> None:
    """Refit, and say what the engine holds now."""
    manifest = artifact.read_manifest(config.engine)
    backend = manifest["backend"]
    if backend != "tensorrt":
        raise ValueError(f"{config.engine} is an engine of {backend}; only those of tensorrt can be refitted")
    if form := manifest["source"].get("quantization"):
        raise ValueError(
            f"{config.engine} is quantized to {form}, with scales that fit its own weights; build it again instead"
        )
    find("tensorrt")
    from synthclone.engines.tensorrt_refit import refit  # needs TensorRT, whose absence `find` explains

    device = pick_device(config.device)
    if config.weights is not None:
        manifest, what = refit(config.engine, config.weights, device=device, out=config.out), config.weights
    else:
        assert config.lora is not None
        with tempfile.TemporaryDirectory(dir=config.engine.parent, prefix=".refit") as folder:
            weights = export_with_lora(config.engine, config.lora, config.lora_scale, Path(folder) / "onnx")
            manifest, what = refit(config.engine, weights, device=device, out=config.out), config.lora
    print(f"{config.out or config.engine}: engine {manifest['key']} with the weights of {what}")


def export_with_lora(engine: Path, path: Path, scale: float, folder: Path) -> Path:
    """Export the component that an engine was built from again, with a LoRA merged; returns the ONNX file.

    Raises:
        ValueError: the engine is of no Stable Diffusion, its checkpoint is gone or has changed, or the LoRA does not fit.
    """
    info, manifest = pipeline.read_info(engine.parent), artifact.read_manifest(engine)
    spec = EngineSpec.from_json(manifest["spec"])
    pipeline.check_unchanged(engine.parent, info)
    lora = read_lora(path, scale)
    if components.CHECKPOINT_COMPONENT[spec.name] not in lora.layers:
        raise ValueError(
            f"{path} changes {', '.join(sorted(lora.layers))}, but nothing in {spec.name}; refit another engine"
        )
    module = components.load_module(diffusion.reopen(info, engine.parent), spec.name, lora)
    request = graph.GraphRequest(
        spec=spec, precision=manifest["precision"], checkpoint_key=lora.sha256, opset=info["opset"]
    )
    graph.export_onnx(module, request, folder)
    return folder / "model.onnx"


def command(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return commands.run(RefitConfig, refit_engine, prog="synthclone refit", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
