"""What an engine takes and gives, declared once per component.

ONNX dynamic shapes, TensorRT profiles, buffers, parity inputs and error messages all derive from an `EngineSpec`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

Precision = Literal["fp32", "fp16", "bf16"]
QuantizedFormat = Literal["int8", "fp8"]
"""Types of 8 bits that a component's products may be rounded to besides: integers, and floating point (E4M3)."""

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
}


@dataclass(frozen=True, kw_only=True)
class AxisRange:
    """Sizes that a dynamic axis may take; `optimum` is the one to tune for."""

    minimum: int
    optimum: int
    maximum: int
    step: int = 1
    """Sizes are multiples of this."""

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise ValueError(
                f"range {self} is out of order: give MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, such as 1:8:32"
            )
        for size in (self.minimum, self.optimum, self.maximum):
            if size % self.step:
                raise ValueError(
                    f"size {size} of range {self.minimum}:{self.optimum}:{self.maximum} is no multiple of {self.step}"
                )

    def __str__(self) -> str:
        text = f"{self.minimum}:{self.optimum}:{self.maximum}"
        return text if self.step == 1 else f"{text} in steps of {self.step}"

    def holds(self, size: int) -> bool:
        """Whether the axis may have this size."""
        return self.minimum <= size <= self.maximum and size % self.step == 0

    @staticmethod
    def parse(text: str) -> "AxisRange":
        """Read "MIN:OPT:MAX", or "N" for a fixed size; and what `str` gives."""
        text, _, step = text.partition(" in steps of ")
        try:
            sizes = [int(part) for part in text.split(":")]
            minimum, optimum, maximum = sizes * 3 if len(sizes) == 1 else sizes
        except ValueError as error:
            raise ValueError(f"range {text!r} is not MIN:OPT:MAX or one whole number, such as 1:8:32") from error
        return AxisRange(minimum=minimum, optimum=optimum, maximum=maximum, step=int(step or 1))


def axis_parts(axis: str) -> tuple[str, int]:
    """Name and divisor of a tensor's dynamic axis: "height/8" is an axis "height", of whose size it has an eighth."""
    name, _, divisor = axis.partition("/")
    return name, int(divisor or 1)


def axis_size(axis: int | str, sizes: Mapping[str, int]) -> int:
    """The length of a tensor's axis at given sizes of the dynamic axes."""
    if isinstance(axis, int):
        return axis
    name, divisor = axis_parts(axis)
    return sizes[name] // divisor


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output: name, dtype and axes (an int, the name of a dynamic axis, or such a name over a divisor)."""

    name: str
    dtype: str
    """A key of `DTYPES`."""
    axes: tuple[int | str, ...]
    below: int | None = None
    """Inputs only: values are drawn from [0, below) when an engine is checked; None draws standard normal values."""
    kept: bool = False
    """Inputs only: many calls in a row are given the very same tensor, such as a text in all steps of a solver. A backend
    may keep what it computes from kept inputs alone, for as long as it is given the same tensor, not written to since."""

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The concrete shape at given sizes of the dynamic axes."""
        return tuple(axis_size(axis, sizes) for axis in self.axes)


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """A component's signature. Every tensor's first axis is "batch", and a row depends on its own row only."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: Mapping[str, AxisRange]
    """A range for each dynamic axis."""

    def __post_init__(self) -> None:
        axes = {axis for tensor in (*self.inputs, *self.outputs) for axis in tensor.axes if isinstance(axis, str)}
        dynamic = {axis_parts(axis)[0] for axis in axes}
        assert dynamic == set(self.ranges), f"{self.name}: axes {dynamic} but ranges {set(self.ranges)}"
        assert all(self.ranges[name].step % divisor == 0 for name, divisor in map(axis_parts, axes)), self.name
        assert all(tensor.axes[0] == "batch" for tensor in (*self.inputs, *self.outputs)), self.name

    def sizes(self, which: Literal["minimum", "optimum", "maximum"]) -> dict[str, int]:
        """The dynamic axes' sizes at one point of their ranges."""
        return {axis: getattr(axis_range, which) for axis, axis_range in self.ranges.items()}

    def check(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """Hold inputs against the spec; returns the sizes of the dynamic axes.

        Raises:
            ValueError: a missing or unknown input, a wrong dtype, rank or fixed size, or a size outside its range.
        """
        names = [tensor.name for tensor in self.inputs]
        if set(inputs) != set(names):
            raise ValueError(f"engine {self.name} takes inputs {', '.join(names)}, got {', '.join(inputs) or 'none'}")
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            value = inputs[spec.name]
            if value.dtype is not DTYPES[spec.dtype]:
                raise ValueError(f"engine {self.name}: {spec.name} is {value.dtype}, but must be {DTYPES[spec.dtype]}")
            if value.ndim != len(spec.axes):
                raise ValueError(
                    f"engine {self.name}: {spec.name} has shape {tuple(value.shape)}, but must be {spec.axes}"
                )
            for axis, size in zip(spec.axes, value.shape, strict=True):
                if isinstance(axis, str):
                    name, divisor = axis_parts(axis)
                    sizes.setdefault(name, size * divisor)
                if size != axis_size(axis, sizes):
                    raise ValueError(
                        f"engine {self.name}: {spec.name} has shape {tuple(value.shape)}, but must be {spec.axes}"
                    )
        for axis, size in sizes.items():
            allowed = self.ranges[axis]
            if not allowed.holds(size):
                raise ValueError(
                    f"engine {self.name}: {axis} {size} is outside the engine's range {allowed}; "
                    f"build it again with a wider --{axis.replace('_', '-')}, or use another {axis}"
                )
        return sizes

    def sample(self, sizes: Mapping[str, int], *, seed: int) -> dict[str, torch.Tensor]:
        """Random CPU inputs of given sizes, to check and to time an engine with."""
        generator = torch.Generator().manual_seed(seed)
        values = {}
        for spec in self.inputs:
            shape = spec.shape(sizes)
            if spec.below is None:
                value = torch.randn(shape, generator=generator)
            else:
                value = torch.randint(spec.below, shape, generator=generator)
            values[spec.name] = value.to(DTYPES[spec.dtype])
        return values

    def to_json(self) -> dict[str, Any]:
        """The spec as plain data, for manifests."""
        return dataclasses.asdict(self) | {"ranges": {axis: str(value) for axis, value in self.ranges.items()}}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "EngineSpec":
        """The inverse of `to_json`."""

        def tensors(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(**item | {"axes": tuple(item["axes"])}) for item in items)

        ranges = {axis: AxisRange.parse(text) for axis, text in data["ranges"].items()}
        return EngineSpec(
            name=data["name"], inputs=tensors(data["inputs"]), outputs=tensors(data["outputs"]), ranges=ranges
        )
