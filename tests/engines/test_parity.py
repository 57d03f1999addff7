"""The parity gate's bounds for 8 bits: wide against the reference, and no wider than ever between an engine's own rows."""

from types import SimpleNamespace

import pytest
import torch

from synthclone.engines import parity
from synthclone.engines.spec import AxisRange, EngineSpec, TensorSpec

SPEC = EngineSpec(
    name="toy",
    inputs=(TensorSpec(name="x", dtype="fp32", axes=("batch", 3)),),
    outputs=(TensorSpec(name="y", dtype="fp32", axes=("batch", 3)),),
    ranges={"batch": AxisRange(minimum=1, optimum=4, maximum=8)},
)


class Scaled(SimpleNamespace):
    """An engine whose rows are off by a factor that depends on their number."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor([self.factor(row, len(x)) for row in range(len(x))])[:, None]


def check(factor, quantization):
    engine = Scaled(spec=SPEC, device=torch.device("cpu"), factor=factor)
    return parity.check(engine, torch.nn.Identity(), "fp32", quantization=quantization)


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_8_bits_may_differ_from_the_reference_by_more(form):
    bound = parity.QUANTIZED_TOLERANCE[form]
    errors = check(lambda row, batch: 1 + bound / 2, form)
    assert errors["optimum_vs_reference"] == pytest.approx(bound / 2, rel=1e-3)
    with pytest.raises(parity.ParityError, match=rf"minimum_vs_reference is .* of fp32\+{form}"):
        check(lambda row, batch: 1 + bound * 1.1, form)
    with pytest.raises(parity.ParityError, match=r"minimum_vs_reference is .* of fp32;"):
        check(lambda row, batch: 1 + bound / 2, None)


@pytest.mark.parametrize(
    ("factor", "name"),
    [
        (lambda row, batch: 1 + 1e-3 * row, "optimum_identical_rows"),
        (lambda row, batch: 1 + 1e-3 * (batch > 1), "optimum_vs_batch_1"),
    ],
)
def test_rows_agree_as_closely_as_without_8_bits(factor, name):
    with pytest.raises(parity.ParityError, match=f"{name} is .* bound 1e-04 of fp32;"):
        check(factor, "int8")
