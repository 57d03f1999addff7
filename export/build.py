"""Compile a Stable Diffusion 1.x checkpoint into engines.

    python export/build.py --model gen/models/digits --backend onnxruntime --precision fp32 --batch 1:8:32 --output DIR
    python export/build.py --model CompVis/stable-diffusion-v1-4 --precision fp16 --batch 1:16:64 --output DIR

Exports text encoder, U-Net and VAE decoder, builds an engine of each, and holds it against PyTorch fp32 before it
counts as built. A build that was killed goes on with the first component that is not finished; a second build of the
same thing does nothing.
"""

import copy
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from synthclone.engines import artifact, backend, files
from synthclone.engines.backend import BackendName, Source
from synthclone.engines.command import run
from synthclone.engines.spec import DTYPES, AxisRange, EngineSpec, Precision
from synthclone.export import checkpoint as checkpoints
from synthclone.export import components, graph, pipeline
from synthclone.export.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Compile a Stable Diffusion checkpoint into engines."""

    model: str
    """Diffusers folder, or hub id such as CompVis/stable-diffusion-v1-4."""
    output: Path
    """Folder for the engines."""
    backend: BackendName = "onnxruntime"
    """What runs the engines."""
    precision: Precision = "fp32"
    """Precision of weights and activations."""
    batch: str = "1:8:32"
    """Images per batch, MIN:OPT:MAX; with guidance the U-Net's own batch is twice that."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        AxisRange.parse(self.batch)

    def command_line(self) -> str:
        """The command that makes the same engines again."""
        words = ["--model", self.model, "--backend", self.backend, "--precision", self.precision, "--batch", self.batch]
        return shlex.join(["synthclone", "build", *words, "--device", self.device, "--output", str(self.output)])


def main(config: BuildConfig) -> None:
    """Build what is not built yet."""
    device = backend.pick_device(config.device)
    backend.find(config.backend)  # a missing library is better known before the export
    checkpoint = checkpoints.find(config.model)
    known = pipeline.read_info(config.output)["fingerprint"] if (config.output / "pipeline.json").is_file() else {}
    fingerprint = checkpoints.fingerprint(checkpoint, known)
    specs = components.engine_specs(checkpoint, config.precision, AxisRange.parse(config.batch))
    built = []
    bar = tqdm(specs.items(), desc="engines", unit="engine")
    for name, spec in bar:
        bar.set_postfix_str(name)
        if _build_component(config, checkpoint, pipeline.fingerprint_key(fingerprint), spec, device):
            built.append(name)
    shutil.copytree(checkpoint.folder / "tokenizer", config.output / "tokenizer", dirs_exist_ok=True)
    image = specs["vae_decoder"].outputs[0]
    info = {
        "format": pipeline.FORMAT,
        "model": config.model,
        "model_folder": str(checkpoint.folder),
        "fingerprint": fingerprint,
        "backend": config.backend,
        "precision": config.precision,
        "image_size": image.axes[-1],
        "scheduler": checkpoint.config("scheduler"),
        "rebuild": config.command_line(),
    }
    files.write_json(config.output / "pipeline.json", info)
    if built:
        print(f"built {', '.join(built)} in {config.output}")
    else:
        print(f"{config.output} is up to date: all {len(specs)} engines are already built")


def _build_component(
    config: BuildConfig, checkpoint: Checkpoint, checkpoint_key: str, spec: EngineSpec, device: torch.device
) -> bool:
    """Build one engine; False if it was already there."""
    folder, onnx_folder = config.output / spec.name, config.output / "onnx" / f"{spec.name}-{config.precision}"
    digests, reference = {"checkpoint": checkpoint_key}, None
    needs_onnx = backend.find(config.backend).NEEDS_ONNX
    if needs_onnx:
        request = graph.GraphRequest(spec=spec, precision=config.precision, checkpoint_key=checkpoint_key)
        found = graph.exported_digests(request, onnx_folder)
        if found is None:
            reference = components.load_module(checkpoint, spec.name)
            found = graph.export_onnx(reference, request, onnx_folder)
        digests |= found
    if artifact.is_built(folder, artifact.engine_identity(spec, config.precision, digests, config.backend, device)):
        return False
    reference = reference or components.load_module(checkpoint, spec.name)
    module = copy.deepcopy(reference).to(DTYPES[config.precision])
    source = Source(
        module=module,
        config=components.module_config(checkpoint, spec.name),
        precision=config.precision,
        digests=digests,
        onnx=onnx_folder / "model.onnx" if needs_onnx else None,
        program=lambda device: graph.compiler_program(module, spec, device),
    )
    artifact.build(
        spec,
        source,
        reference,
        backend=config.backend,
        folder=folder,
        device=device,
        make_module=components.make_module,
        rebuild_command=config.command_line(),
    )
    return True


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(BuildConfig, main, prog="synthclone build", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
