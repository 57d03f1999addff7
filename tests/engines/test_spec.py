"""Specs, ranges and their errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthclone.engines.spec import AxisRange, EngineSpec, TensorSpec

SPEC = EngineSpec(
    name="toy",
    inputs=(
        TensorSpec(name="x", dtype="fp32", axes=("batch", 3)),
        TensorSpec(name="t", dtype="int64", axes=("batch",), below=9),
    ),
    outputs=(TensorSpec(name="y", dtype="fp32", axes=("batch", 3)),),
    ranges={"batch": AxisRange(minimum=2, optimum=4, maximum=8)},
)


@given(st.lists(st.integers(1, 500), min_size=3, max_size=3).map(sorted))
def test_ranges_survive_their_text(sizes):
    text = ":".join(map(str, sizes))
    assert str(AxisRange.parse(text)) == text


@pytest.mark.parametrize("text", ["8:1:32", "0:1:2", "1:2", "a:b:c", "", "1:4:2", "-1:2:3"])
def test_bad_ranges(text):
    with pytest.raises(ValueError, match=r"range .*such as 1:8:32"):
        AxisRange.parse(text)


def test_one_number_is_a_fixed_size():
    assert str(AxisRange.parse("4")) == "4:4:4"


def test_json_round_trip():
    assert EngineSpec.from_json(SPEC.to_json()) == SPEC


def test_samples_fit_the_spec():
    for point in ("minimum", "optimum", "maximum"):
        inputs = SPEC.sample(SPEC.sizes(point), seed=1)
        assert SPEC.check(inputs) == SPEC.sizes(point)
        assert int(inputs["t"].min()) >= 0 and int(inputs["t"].max()) < 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4, 3, dtype=torch.float16)}, "x is torch.float16, but must be torch.float32"),
        ({"x": torch.zeros(4, 5)}, r"x has shape \(4, 5\)"),
        ({"x": torch.zeros(4)}, r"x has shape \(4,\)"),
        ({"x": torch.zeros(3, 3)}, "t has shape"),
        (
            {"x": torch.zeros(1, 3), "t": torch.zeros(1, dtype=torch.int64)},
            "batch 1 is outside the engine's range 2:4:8.*--batch",
        ),
        ({"x": torch.zeros(9, 3), "t": torch.zeros(9, dtype=torch.int64)}, "batch 9 is outside"),
        ({"z": torch.zeros(4, 3)}, "takes inputs x, t"),
    ],
)
def test_wrong_inputs_are_named(change, message):
    inputs = {"x": torch.zeros(4, 3), "t": torch.zeros(4, dtype=torch.int64)} | change
    with pytest.raises(ValueError, match=message):
        SPEC.check(inputs)
