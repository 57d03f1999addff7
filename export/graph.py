"""A component as an ONNX graph: PyTorch's dynamo exporter, opset 20, dynamic batch, weights beside the graph.

The component must already be in the precision that it is to run in: TensorRT 11 takes precision from the graph.
"""

import copy
import json
import logging
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch import nn
from torch.nn import functional

from synthclone.engines import files
from synthclone.engines.spec import DTYPES, EngineSpec, Precision

OPSET = 20
REVISION = 1  # raise it when this file changes what it exports


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a convolution: diffusers' Upsample2D without its branch on the batch size.

    diffusers makes its input contiguous from a batch of 64 on; the exporter would turn that branch into an upper
    bound on the batch.
    """

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, hidden_BCHW: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        return self.conv(functional.interpolate(hidden_BCHW, scale_factor=2.0, mode="nearest"))


def any_batch(module: nn.Module) -> nn.Module:
    """A copy of a module, sharing its weights, whose code takes the same path at every batch size."""
    from diffusers.models.upsampling import Upsample2D

    shared = {id(value): value for value in (*module.parameters(), *module.buffers())}
    module = copy.deepcopy(module, shared)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Upsample2D):
                assert child.conv is not None
                setattr(parent, name, Upsample(child.conv))
    return module


def export_program(module: nn.Module, spec: EngineSpec) -> torch.export.ExportedProgram:
    """The module as a `torch.export` program whose dynamic axes are the spec's.

    Exported with a batch of 2, because a batch of 1 would be taken for a constant.
    """
    sizes = {axis: max(2, size) for axis, size in spec.sizes("minimum").items()}
    sample = spec.sample(sizes, seed=0)
    dims = {axis: torch.export.Dim(axis) for axis in spec.ranges}
    shapes = tuple(
        {index: dims[axis] for index, axis in enumerate(tensor.axes) if isinstance(axis, str)} for tensor in spec.inputs
    )
    with torch.no_grad():
        return torch.export.export(any_batch(module), tuple(sample.values()), dynamic_shapes=shapes)


@dataclass(frozen=True, kw_only=True)
class GraphRequest:
    """What to export, and from what; two equal requests give the same graph."""

    spec: EngineSpec
    precision: Precision
    checkpoint_key: str
    """Hash of the checkpoint's files."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the graph, as plain data."""
        return {
            "checkpoint": self.checkpoint_key,
            "inputs": json.loads(json.dumps(self.spec.to_json()["inputs"])),
            "precision": self.precision,
            "opset": OPSET,
            "revision": REVISION,
            "torch": torch.__version__,
        }


def exported_digests(request: GraphRequest, folder: Path) -> dict[str, str] | None:
    """sha256 of the graph and the weights in `folder`, or None if it does not hold exactly this export."""
    if not (folder / "export.json").is_file():
        return None
    done = files.read_json(folder / "export.json")
    return done["digests"] if done["identity"] == request.identity() else None


def export_onnx(module: nn.Module, request: GraphRequest, folder: Path) -> dict[str, str]:
    """Export a component to `folder/model.onnx` and `.onnx.data`; the folder is replaced when the export is complete.

    Args:
        module: the component in fp32; it is exported in the request's precision.
        request: signature and precision.
        folder: where it goes.

    Returns:
        sha256 of the graph and of the weights.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    program = export_program(copy.deepcopy(module).to(DTYPES[request.precision]), request.spec)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every torchvision operator it does not know
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in request.spec.inputs],
            output_names=[tensor.name for tensor in request.spec.outputs],
            verbose=False,
        )
    assert exported is not None
    for value, tensor in zip(exported.model.graph.inputs, request.spec.inputs, strict=True):
        value.shape = onnx_ir.Shape(tensor.axes)  # the axes' own names instead of the exporter's "s77"
    exported.save(part / "model.onnx", external_data=True)
    digests = {name: files.sha256(part / f"model.onnx{end}") for name, end in (("graph", ""), ("weights", ".data"))}
    files.write_json(part / "export.json", {"identity": request.identity(), "digests": digests})
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return digests
