"""The parity gate: no engine is finished until it agrees with the eager fp32 reference.

Checked at the minimum, optimum and maximum of the ranges: the engine's output against the reference, identical rows
for identical inputs, rows at batch b against the same rows at the minimum batch, and freedom from NaN and Inf. (Silent
wrong output at batch > 1 is the complaint most often met with compiled diffusion engines.)

An error is relative: root mean square of the difference over that of the reference.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from synthclone.engines.backend import Engine
from synthclone.engines.spec import DTYPES, EngineSpec, Precision, QuantizedFormat

# Unit roundoff is 6e-8 in fp32, 5e-4 in fp16 and 4e-3 in bf16; the bounds leave room for tens of layers.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
# With 8 bits rounding is no longer small: a product's inputs are off by up to 1/254 of the largest (int8) or 1/16 of
# themselves (fp8, E4M3). Over the embedded generator's whole U-Net this gate measures 0.0093 and 0.0222; the bounds are
# four times that. They hold against the reference alone: an engine's own rows agree as closely as without quantization.
QUANTIZED_TOLERANCE: dict[QuantizedFormat, float] = {"int8": 0.04, "fp8": 0.09}
Point = Literal["minimum", "optimum", "maximum"]
POINTS: tuple[Point, ...] = ("minimum", "optimum", "maximum")


class ParityError(ValueError):
    """An engine whose output is wrong; it is not installed."""


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Root mean square of the difference, over the reference's."""
    difference = (value.double() - reference.double()).pow(2).mean().sqrt()
    return float(difference / reference.double().pow(2).mean().sqrt().clamp_min(1e-12))


def check(
    engine: Engine,
    reference: nn.Module,
    precision: Precision,
    points: Sequence[Point] = POINTS,
    quantization: QuantizedFormat | None = None,
) -> dict[str, float]:
    """Hold an engine against its reference; returns the errors for the manifest.

    Raises:
        ParityError: an error is over `TOLERANCE[precision]`, or there is NaN or Inf. Quantization has a bound of its own
            against the reference.
    """
    spec = engine.spec
    errors: dict[str, float] = {}
    for point in points:
        sizes = spec.sizes(point)
        inputs = spec.sample(sizes, seed=0)
        output = _run(engine, inputs)
        if not torch.isfinite(output).all():
            raise ParityError(f"engine {spec.name} gives NaN or Inf at {sizes}; try --precision fp32 or bf16")
        errors[f"{point}_vs_reference"] = relative_error(output, _reference(reference, spec, inputs))
        if sizes["batch"] > 1:
            alike = {name: value[:1].repeat_interleave(sizes["batch"], 0) for name, value in inputs.items()}
            same = _run(engine, alike)
            errors[f"{point}_identical_rows"] = relative_error(same, same[:1].expand_as(same))
            small = spec.ranges["batch"].minimum
            rows = _run(engine, {name: value[:small] for name, value in inputs.items()})
            errors[f"{point}_vs_batch_{small}"] = relative_error(output[:small], rows)
    for name, error in errors.items():
        bound, what = TOLERANCE[precision], str(precision)
        if quantization is not None and name.endswith("_vs_reference"):
            bound, what = QUANTIZED_TOLERANCE[quantization], f"{precision}+{quantization}"
        if not error <= bound:
            raise ParityError(
                f"engine {spec.name} is wrong: {name} is {error:.2e}, over the bound {bound:.0e} of {what}; "
                "it was not installed"
            )
    return {name: float(f"{error:.3e}") for name, error in errors.items()}


def _run(engine: Engine, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return engine(**{name: value.to(engine.device) for name, value in inputs.items()}).float().cpu()


def _reference(module: nn.Module, spec: EngineSpec, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The fp32 module's answer to the same inputs, a few rows at a time to save memory."""
    values = [inputs[tensor.name] for tensor in spec.inputs]
    values = [value.float() if value.dtype in (DTYPES["fp16"], DTYPES["bf16"]) else value for value in values]
    with torch.inference_mode():
        return torch.cat([module(*rows) for rows in zip(*(value.split(8) for value in values), strict=True)])
