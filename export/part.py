"""One component on its way to an engine: exported if its backend wants ONNX, built, held against PyTorch, installed.

What is there already, made from the same checkpoint in the same way, is left alone. Which components there are is left
to `build.py` (Stable Diffusion) and `classifier.py`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synthclone.engines import artifact, backend
from synthclone.engines.backend import Source
from synthclone.engines.spec import DTYPES, EngineSpec, Precision, QuantizedFormat
from synthclone.export import graph
from synthclone.export.graph import Opset


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is compiled."""

    spec: EngineSpec
    key: str
    """Hash of everything in the checkpoint that decides what it computes."""
    config: Mapping[str, Any]
    """Plain data from which `make_module` makes the module without its weights."""
    load: Callable[[], nn.Module]
    """Gives the module in fp32 on the CPU, in eval mode."""
    make_module: Callable[[Any], nn.Module]
    quantization: "Quantization | None" = None
    """How its graph is quantized."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Products in 8 bits, as a part sees it; see `calibration.py`."""

    form: QuantizedFormat
    digest: str
    """Hash of everything that decides the scales."""
    quantizer: Callable[[nn.Module], Callable[[nn.Module], nn.Module]]
    """From the module in fp32, something that quantizes it in any precision."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What it is compiled for, and where to."""

    backend: str
    precision: Precision
    device: torch.device
    output: Path
    rebuild_command: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """The backend's build options."""
    opset: Opset = 20

    def onnx_folder(self, part: Part) -> Path:
        """Where the exported graph of a component lies."""
        form = f"-{part.quantization.form}" if part.quantization else ""
        return self.output / "onnx" / f"{part.spec.name}-{self.precision}{form}"

    def check_options(self) -> None:
        """Find a missing library or a wrong option before the export, which takes minutes.

        Raises:
            ValueError: the message names the extra, or the valid options.
        """
        backend.make_options(backend.find(self.backend), self.backend, self.options)


def build_part(part: Part, target: Target) -> bool:
    """Build one engine; False if it was already there."""
    spec, folder, onnx_folder = part.spec, target.output / part.spec.name, target.onnx_folder(part)
    digests, reference = {"checkpoint": part.key}, None
    quantization = part.quantization
    if quantization is not None:
        digests |= {"quantization": quantization.form, "calibration": quantization.digest}
    needs_onnx = backend.find(target.backend).NEEDS_ONNX
    if needs_onnx:
        request = graph.GraphRequest(
            spec=spec,
            precision=target.precision,
            checkpoint_key=part.key,
            opset=target.opset,
            quantization=quantization.digest if quantization else None,
        )
        found = graph.exported_digests(request, onnx_folder)
        if found is None:
            reference = part.load()
            quantize = quantization.quantizer(reference) if quantization else None
            found = graph.export_onnx(reference, request, onnx_folder, quantize)
        digests |= found
    identity = artifact.engine_identity(spec, target.precision, digests, target.backend, target.device, target.options)
    if artifact.is_built(folder, identity):
        return False
    reference = reference or part.load()
    module = copy.deepcopy(reference).to(DTYPES[target.precision])
    source = Source(
        module=module,
        config=part.config,
        precision=target.precision,
        quantization=quantization.form if quantization else None,
        digests=digests,
        onnx=onnx_folder / "model.onnx" if needs_onnx else None,
        program=lambda device: graph.compiler_program(module, spec, device),
    )
    artifact.build(
        spec,
        source,
        reference,
        backend=target.backend,
        folder=folder,
        device=target.device,
        make_module=part.make_module,
        rebuild_command=target.rebuild_command,
        options=target.options,
    )
    return True
