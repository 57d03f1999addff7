"""A component as an ONNX graph: PyTorch's dynamo exporter, dynamic axes, weights beside the graph.

The component must already be in the precision that it is to run in: TensorRT 11 takes precision from the graph. At
opset 20 attention and group normalisation are spelled out in basic operators; at 23 each is one operator.
"""

import copy
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import onnx_ir
import torch
from torch import nn
from torch.nn import functional

from synthclone.engines import files
from synthclone.engines.spec import DTYPES, EngineSpec, Precision, axis_parts
from synthclone.export.cleanup import clean_up

Opset = Literal[20, 23]
OPSETS: tuple[int, ...] = get_args(Opset)
FEW_ROWS = 8
REVISION = 3  # raise it when this file changes what it exports


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

    The sample has 2 of everything dynamic or more, because 1 would be taken for a constant, and different heights and
    widths, which would be taken for one axis otherwise. A size that goes in steps is exported as a multiple of its
    step: with that known, the U-Net's halvings and doublings need no case of their own for odd sizes.
    """
    sizes = {axis: (2 + index) * sizes.step for index, (axis, sizes) in enumerate(spec.ranges.items())}
    return _trace(module, spec, sizes, set(spec.ranges))


def compiler_program(module: nn.Module, spec: EngineSpec, device: torch.device) -> torch.export.ExportedProgram:
    """The same for a compiler: on its device, at the sizes to tune for, and a range of one size becomes a constant."""
    dynamic = {axis for axis, sizes in spec.ranges.items() if sizes.minimum < sizes.maximum}
    sizes = {axis: max(2, size) if axis in dynamic else size for axis, size in spec.sizes("optimum").items()}
    module = module.to(device)
    if device.type == "cpu" and "batch" not in dynamic and sizes["batch"] <= FEW_ROWS:
        module = attend_row_by_row(any_batch(module))
    return _trace(module, spec, sizes, dynamic)


def attend_row_by_row(module: nn.Module) -> nn.Module:
    """Put plain matrix products in place of fused attention in a bf16 U-Net, one row of the batch after another; in place.

    PyTorch's fused attention has no bf16 kernel for processors without AMX and computes in fp32, while oneDNN's matrix
    products use the bf16 instructions: 260 against 362 ms for 4,096 pixels of SD 1.4 at batch 2 (`bench/unet_cpu.py` has
    the whole U-Net). The scores of all rows at once would take gigabytes, and every row is unrolled into the program.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention, SlicedAttnProcessor

    unets: list[Any] = [part for part in module.modules() if isinstance(part, UNet2DConditionModel)]
    for unet in unets:
        if unet.dtype == torch.bfloat16:
            heads = max(block.heads for block in unet.modules() if isinstance(block, Attention))
            unet.set_attn_processor(SlicedAttnProcessor(heads))
    return module


def _trace(
    module: nn.Module, spec: EngineSpec, sizes: Mapping[str, int], dynamic: Set[str]
) -> torch.export.ExportedProgram:
    """The program at given sizes, with some of its axes dynamic."""
    device = next(module.parameters()).device
    sample = tuple(value.to(device) for value in spec.sample(sizes, seed=0).values())
    counts = {axis: torch.export.Dim(f"{axis}_steps" if spec.ranges[axis].step > 1 else axis) for axis in dynamic}

    def dim(axis: str) -> Any:
        name, divisor = axis_parts(axis)
        length = spec.ranges[name].step // divisor  # of the axis, for one step of the size
        return counts[name] if length == 1 else length * counts[name]

    shapes = tuple(
        {
            index: dim(axis)
            for index, axis in enumerate(tensor.axes)
            if isinstance(axis, str) and axis_parts(axis)[0] in dynamic
        }
        for tensor in spec.inputs
    )
    with torch.no_grad():
        return torch.export.export(any_batch(module), sample, dynamic_shapes=shapes)


@dataclass(frozen=True, kw_only=True)
class GraphRequest:
    """What to export, and from what; two equal requests give the same graph."""

    spec: EngineSpec
    precision: Precision
    checkpoint_key: str
    """Hash of the checkpoint's files."""
    opset: Opset = 20
    quantization: str | None = None
    """Hash of the calibration of a quantized graph."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the graph, as plain data."""
        return {
            "checkpoint": self.checkpoint_key,
            "inputs": json.loads(json.dumps(self.spec.to_json()["inputs"])),
            "precision": self.precision,
            "opset": self.opset,
            "revision": REVISION,
            "torch": torch.__version__,
        } | ({} if self.quantization is None else {"quantization": self.quantization})


def exported_digests(request: GraphRequest, folder: Path) -> dict[str, str] | None:
    """sha256 of the graph and the weights in `folder`, or None if it does not hold exactly this export."""
    if not (folder / "export.json").is_file():
        return None
    done = files.read_json(folder / "export.json")
    return done["digests"] if done["identity"] == request.identity() else None


def export_onnx(
    module: nn.Module,
    request: GraphRequest,
    folder: Path,
    quantize: Callable[[nn.Module], nn.Module] | None = None,
) -> dict[str, str]:
    """Export a component to `folder/model.onnx` and `.onnx.data`; the folder is replaced when the export is complete.

    Args:
        module: the component in fp32; it is exported in the request's precision.
        request: signature and precision.
        folder: where it goes.
        quantize: puts quantized layers into the module, once that is in its precision.

    Returns:
        sha256 of the graph and of the weights.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    converted = copy.deepcopy(module).to(DTYPES[request.precision])
    program = export_program(quantize(converted) if quantize else converted, request.spec)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every torchvision operator it does not know
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=request.opset,
            input_names=[tensor.name for tensor in request.spec.inputs],
            output_names=[tensor.name for tensor in request.spec.outputs],
            verbose=False,
        )
    assert exported is not None
    clean_up(exported.model)
    for value, tensor in zip(exported.model.graph.inputs, request.spec.inputs, strict=True):
        value.shape = onnx_ir.Shape(tensor.axes)  # the axes' own names instead of the exporter's "s77"
    exported.save(part / "model.onnx", external_data=True)
    digests = {name: files.sha256(part / f"model.onnx{end}") for name, end in (("graph", ""), ("weights", ".data"))}
    files.write_json(part / "export.json", {"identity": request.identity(), "digests": digests})
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return digests
