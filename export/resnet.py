"""ResNet-18 and ResNet-50 with torchvision's parameter names, so that its and timm's checkpoints load.

Own code because torchvision's wheels do not load beside a CPU build of PyTorch. The stride of a bottleneck sits on
its 3x3 convolution ("ResNet v1.5"), as in torchvision and timm. It lies on this floor because both training (above) and
`classifier.py`, which compiles a trained network, need it.

    make_model("resnet50", num_classes=100, generator=torch.Generator().manual_seed(0))

Shapes: B images, C channels, H x W pixels, K classes, F features (512 or 2048).
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Arch = Literal["resnet18", "resnet50"]
ARCHS: tuple[str, ...] = get_args(Arch)


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def make_downsample(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The projection of a block's short cut, where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a short cut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = make_downsample(in_channels, width, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW = self.relu(self.bn1(self.conv1(x_BCHW)))
        out_BCHW = self.bn2(self.conv2(out_BCHW))
        return self.relu(out_BCHW + (x_BCHW if self.downsample is None else self.downsample(x_BCHW)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a short cut; the output is four times as wide as the middle."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = make_downsample(in_channels, out_channels, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW = self.relu(self.bn1(self.conv1(x_BCHW)))
        out_BCHW = self.relu(self.bn2(self.conv2(out_BCHW)))
        out_BCHW = self.bn3(self.conv3(out_BCHW))
        return self.relu(out_BCHW + (x_BCHW if self.downsample is None else self.downsample(x_BCHW)))


class ResNet(nn.Module):
    """A residual network: a stem, four stages, average pooling and a linear classifier."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], blocks_per_stage: tuple[int, ...], num_classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        stages = []
        for stage, num_blocks in enumerate(blocks_per_stage):
            blocks = []
            for i in range(num_blocks):
                blocks.append(block(channels, 64 << stage, stride=2 if i == 0 and stage > 0 else 1))
                channels = (64 << stage) * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.num_features = channels
        self.fc = nn.Linear(channels, num_classes)

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Average-pooled output of the last stage, before the classifier: B x F."""
        x_BCHW = self.maxpool(self.relu(self.bn1(self.conv1(images_BCHW))))
        x_BCHW = self.layer4(self.layer3(self.layer2(self.layer1(x_BCHW))))
        return x_BCHW.mean(dim=(2, 3))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits: B x K."""
        return self.fc(self.features(images_BCHW))


MAKERS: dict[str, Callable[[int], ResNet]] = {
    "resnet18": lambda num_classes: ResNet(BasicBlock, (2, 2, 2, 2), num_classes),
    "resnet50": lambda num_classes: ResNet(Bottleneck, (3, 4, 6, 3), num_classes),
}


def make_model(arch: str, *, num_classes: int, generator: torch.Generator) -> ResNet:
    """A freshly initialised network.

    He initialisation for convolutions. The last BatchNorm of each block starts at zero, so that a block starts as
    the identity (Goyal et al. 2017, section 5.1).

    Raises:
        ValueError: `arch` is unknown.
    """
    if arch not in MAKERS:
        raise ValueError(f"unknown arch {arch!r}; choose one of {', '.join(ARCHS)}")
    with torch.device("meta"):  # no random numbers are drawn from the global generator
        model = MAKERS[arch](num_classes)
    model = model.to_empty(device="cpu")
    initialise(model, generator)
    return model


@torch.no_grad()
def initialise(model: ResNet, generator: torch.Generator) -> None:
    """Fill every parameter and buffer in place, in the order of the modules."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, (BasicBlock, Bottleneck)):
            nn.init.zeros_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight)
