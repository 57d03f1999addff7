"""The recipe's pure functions: schedule, groups, loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthclone.export.resnet import make_model
from synthclone.train.recipe import (
    MultiCrop,
    learning_rate,
    multi_crop_loss,
    parameter_groups,
    peak_learning_rate,
    repeat_labels,
)


def test_learning_rate_at_known_times() -> None:
    at = {epoch: learning_rate(epoch, peak=0.4, warmup_epochs=10, epochs=100) for epoch in (0, 5, 10, 55, 100)}
    assert at == pytest.approx({0: 0.0, 5: 0.2, 10: 0.4, 55: 0.2, 100: 0.0})
    assert peak_learning_rate(1024) == pytest.approx(0.4)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 20))
def test_learning_rate_stays_below_the_peak_and_falls_after_warmup(first: float, second: float, warmup: float) -> None:
    low, high = sorted((first, second))
    rates = [learning_rate(e, peak=1.0, warmup_epochs=warmup, epochs=100) for e in (low, high)]
    assert all(0 <= rate <= 1 for rate in rates)
    if low >= warmup:
        assert rates[0] >= rates[1]
    elif high < warmup:
        assert rates[0] <= rates[1]


def test_batchnorm_and_biases_do_not_decay() -> None:
    model = make_model("resnet18", num_classes=4, generator=torch.Generator())
    decayed, free = parameter_groups(model, 1e-4)
    named = dict(model.named_parameters())
    assert {id(p) for p in free["params"]} == {
        id(p) for n, p in named.items() if "bn" in n or n.endswith("bias") or "downsample.1" in n
    }
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-4, 0.0)
    assert len(decayed["params"]) + len(free["params"]) == len(named)


def test_loss_is_the_mean_over_crops() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_MK, labels_B = torch.randn(12, 5, generator=generator), torch.tensor([0, 3, 4])
    plain = [-torch.log_softmax(row, 0)[labels_B[i % 3]] for i, row in enumerate(logits_MK)]
    torch.testing.assert_close(multi_crop_loss(logits_MK, labels_B), torch.stack(plain).mean())
    assert repeat_labels(labels_B, 6).tolist() == [0, 3, 4, 0, 3, 4]


def test_one_backbone_pass_for_each_resolution() -> None:
    passes = []

    class Constant(torch.nn.Module):
        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            passes.append(tuple(images_BCHW.shape))
            return torch.eye(3)[images_BCHW[:, 0, 0, 0].long()] * 50

    labels_B = torch.tensor([0, 2])
    crops = [torch.zeros(2, 3, 8, 8), torch.zeros(6, 3, 4, 4)]
    for crop_MCHW in crops:
        crop_MCHW[:, 0, 0, 0] = repeat_labels(labels_B, len(crop_MCHW)).float()
    loss, num_correct = MultiCrop(Constant(), 0.0)(crops, labels_B)
    assert passes == [(2, 3, 8, 8), (6, 3, 4, 4)]
    assert loss < 1e-6
    assert num_correct == 2
