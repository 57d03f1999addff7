"""ResNet against torchvision's published names and shapes, and against a plain functional forward pass."""

import pytest
import torch
from torch.nn import functional

from synthclone.export.resnet import make_model

STAGES_50 = ((1, 3, 64), (2, 4, 128), (3, 6, 256), (4, 3, 512))


def expected_resnet50() -> dict[str, tuple[int, ...]]:
    """torchvision's parameters of resnet50: names and shapes."""
    shapes = {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,), "bn1.bias": (64,)}
    channels = 64
    for stage, blocks, width in STAGES_50:
        for block in range(blocks):
            at = f"layer{stage}.{block}."
            kernels = ((width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            for i, kernel in enumerate(kernels, start=1):
                shapes[f"{at}conv{i}.weight"] = kernel
                shapes |= {f"{at}bn{i}.weight": kernel[:1], f"{at}bn{i}.bias": kernel[:1]}
            if block == 0:
                shapes[at + "downsample.0.weight"] = (4 * width, channels, 1, 1)
                shapes |= {at + f"downsample.1.{name}": (4 * width,) for name in ("weight", "bias")}
            channels = 4 * width
    return shapes | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


def test_resnet50_has_torchvisions_parameters() -> None:
    model = make_model("resnet50", num_classes=1000, generator=torch.Generator())
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == expected_resnet50()
    assert len(shapes) == 161
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    buffers = {name.rsplit(".", 1)[1] for name, _ in model.named_buffers()}
    assert buffers == {"running_mean", "running_var", "num_batches_tracked"}


def test_resnet18_has_torchvisions_count() -> None:
    model = make_model("resnet18", num_classes=1000, generator=torch.Generator())
    assert sum(p.numel() for p in model.parameters()) == 11_689_512
    assert len(list(model.parameters())) == 62


def plain_forward(weights: dict[str, torch.Tensor], x_BCHW: torch.Tensor, blocks: list[tuple[str, int]]):
    """ResNet-50 written out with functions, in evaluation mode."""

    def norm(x, name):
        w = {k: weights[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")}
        return functional.batch_norm(x, **w)

    x = functional.conv2d(x_BCHW, weights["conv1.weight"], stride=2, padding=3)
    x = functional.max_pool2d(norm(x, "bn1").relu(), 3, stride=2, padding=1)
    for at, stride in blocks:
        y = norm(functional.conv2d(x, weights[at + "conv1.weight"]), at + "bn1").relu()
        y = norm(functional.conv2d(y, weights[at + "conv2.weight"], stride=stride, padding=1), at + "bn2").relu()
        y = norm(functional.conv2d(y, weights[at + "conv3.weight"]), at + "bn3")
        if at + "downsample.0.weight" in weights:
            x = norm(functional.conv2d(x, weights[at + "downsample.0.weight"], stride=stride), at + "downsample.1")
        x = (x + y).relu()
    features_BF = x.mean((2, 3))
    return features_BF, functional.linear(features_BF, weights["fc.weight"], weights["fc.bias"])


def test_forward_equals_the_plain_one() -> None:
    generator = torch.Generator().manual_seed(1)
    model = make_model("resnet50", num_classes=7, generator=generator).eval()
    for name, tensor in model.state_dict().items():
        if ".bn3.weight" in name:  # zero at the start would hide the branch
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    blocks = [(f"layer{s}.{b}.", 2 if b == 0 and s > 1 else 1) for s, n, _ in STAGES_50 for b in range(n)]
    x_BCHW = torch.randn(2, 3, 40, 40, generator=generator)
    with torch.inference_mode():
        features_BF, logits_BK = plain_forward(model.state_dict(), x_BCHW, blocks)
        torch.testing.assert_close(model.features(x_BCHW), features_BF)
        torch.testing.assert_close(model(x_BCHW), logits_BK)


def test_blocks_start_as_the_identity_and_the_seed_decides() -> None:
    first = make_model("resnet50", num_classes=3, generator=torch.Generator().manual_seed(5))
    again = make_model("resnet50", num_classes=3, generator=torch.Generator().manual_seed(5))
    other = make_model("resnet50", num_classes=3, generator=torch.Generator().manual_seed(6))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert first.layer3[2].bn3.weight.abs().sum() == 0


def test_an_unknown_arch_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"resnet51.*resnet18, resnet50"):
        make_model("resnet51", num_classes=2, generator=torch.Generator())
