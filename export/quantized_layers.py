"""Layers with ONNX's QuantizeLinear and DequantizeLinear around them, for the export of a quantized component.

    input -> Q -> DQ -> convolution or matrix product <- DQ <- weights in 8 bits

A compiler that knows the pattern (TensorRT) runs the product in 8 bits; any other computes the same values in floating
point. Quantization is symmetric, with one scale for an input and one for weights or for each of their output channels.
The layers can be traced, but not run: where the scales come from is `calibration.py`'s business.

Each layer gives what modelopt's gives for the same input, but whole U-Nets part: a value that lies where two 8-bit steps
meet goes either way (modelopt multiplies by the inverse scale, ONNX divides), one such step moves the next layer's input
across others, and in the end one U-Net is off the other by as much as either is off fp32. modelopt's own model does so
to itself when its input moves by a hundred-thousandth. Compare layers with modelopt, and whole U-Nets with fp32.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from synthclone.engines.spec import QuantizedFormat

STORED: dict[QuantizedFormat, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST: dict[QuantizedFormat, float] = {"int8": 127.0, "fp8": 448.0}
SMALLEST_SCALE = 2.0**-20
"""The smallest scale: above fp16's own smallest by enough to keep four bits of it."""


@dataclass(frozen=True, kw_only=True)
class Amplitudes:
    """The largest magnitudes that one layer's 8-bit values must reach; what is larger is clipped."""

    input: torch.Tensor
    """fp32, no axes."""
    weight: torch.Tensor
    """fp32, no axes, or one for each output channel."""


def quantize_layers(module: nn.Module, layers: Mapping[str, Amplitudes], form: QuantizedFormat) -> nn.Module:
    """A copy of a module, already in its precision, in which the named convolutions and linear layers are quantized."""
    shared = {id(value): value for value in (*module.parameters(), *module.buffers())}
    module = copy.deepcopy(module, shared)
    for name, amplitudes in layers.items():
        parent, _, child = name.rpartition(".")
        module.get_submodule(parent).register_module(
            child, QuantizedLayer(module.get_submodule(name), amplitudes, form)
        )
    return module


class QuantizedLayer(nn.Module):
    """A convolution or a linear layer between 8-bit values."""

    weight: torch.Tensor
    weight_scale: torch.Tensor
    input_scale: torch.Tensor
    zero: torch.Tensor
    zeros: torch.Tensor

    def __init__(self, layer: Any, amplitudes: Amplitudes, form: QuantizedFormat) -> None:
        super().__init__()
        self.layer = layer
        weight = layer.weight.detach()
        scale = to_scale(amplitudes.weight, form, weight.dtype)
        self.per_channel = scale.ndim == 1
        rows = scale.view(-1, *[1] * (weight.ndim - 1)) if self.per_channel else scale
        self.register_buffer("weight", to_8_bits(weight / rows, form))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("input_scale", to_scale(amplitudes.input, form, weight.dtype))
        self.register_buffer("zero", torch.zeros((), dtype=STORED[form]))  # its type is what Q rounds to
        self.register_buffer("zeros", torch.zeros(scale.shape, dtype=STORED[form]))
        self.bias = layer.bias
        del layer.weight, layer.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        dtype, symbolic = hidden.dtype, torch.onnx.ops.symbolic
        stored = symbolic(
            "QuantizeLinear", (hidden, self.input_scale, self.zero), dtype=self.zero.dtype, shape=hidden.shape
        )
        hidden = symbolic("DequantizeLinear", (stored, self.input_scale, self.zero), dtype=dtype, shape=stored.shape)
        weight = symbolic(
            "DequantizeLinear",
            (self.weight, self.weight_scale, self.zeros),
            {"axis": 0} if self.per_channel else {},
            dtype=dtype,
            shape=self.weight.shape,
        )
        if isinstance(self.layer, nn.Linear):
            return functional.linear(hidden, weight, self.bias)
        return self.layer._conv_forward(hidden, weight, self.bias)


def to_scale(amplitude: torch.Tensor, form: QuantizedFormat, dtype: torch.dtype) -> torch.Tensor:
    """What one step of the 8-bit values is worth, in the component's precision; values are divided by the rounded one."""
    return (amplitude.float() / LARGEST[form]).clamp_min(SMALLEST_SCALE).to(dtype)


def to_8_bits(steps: torch.Tensor, form: QuantizedFormat) -> torch.Tensor:
    """Rounded to nearest, and clipped where the format ends."""
    clipped = steps.float().clamp(-LARGEST[form], LARGEST[form])
    return clipped.round().to(torch.int8) if form == "int8" else clipped.to(torch.float8_e4m3fn)
