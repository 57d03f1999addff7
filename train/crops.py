"""The multi-crop policy as data, and its DALI graph: decode once, then crop, colour, blur and normalise each crop.

The default is the recipe of t-ReX (Sariyildiz et al., ICLR 2023), whose authors also made the synthetic ImageNet
clones: one global crop at 224 pixels of 40 to 100 % of the image and eight local ones at 96 of 5 to 40 %. DINO's
2 + N is `CropPolicy(num_global=2)`. What reads the shards is in `loader.py`.

On a CPU resampling costs more than decoding, so the fewest operators are used: jitter and greying are one
`color_twist`, flip and normalisation one `crop_mirror_normalize`, and solarisation is a table of 256 values.
"""

from dataclasses import dataclass
from typing import Any, Literal

from synthclone.train.dali import Dali

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Colour = Literal["full", "none"]


@dataclass(frozen=True, kw_only=True)
class CropPolicy:
    """How many crops of which sizes, and how they are changed. Scales are shares of the image's area."""

    num_global: int = 1
    global_size: int = 224
    global_scale: tuple[float, float] = (0.4, 1.0)
    num_local: int = 8
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.4)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    colour: Colour = "full"

    def __post_init__(self) -> None:
        if self.num_global < 1:
            raise ValueError(f"num_global is {self.num_global}; at least 1 global crop is needed")
        if self.num_local < 0:
            raise ValueError(f"num_local is {self.num_local}; give 0 for no local crops, or a positive number")
        for name, size in (("global_size", self.global_size), ("local_size", self.local_size)):
            if size < 8:
                raise ValueError(f"{name} is {size} pixels; a ResNet needs at least 8")
        for name, (low, high) in (("global_scale", self.global_scale), ("local_scale", self.local_scale)):
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} is {low}, {high}; give two shares of the area with 0 < low <= high <= 1")
        low, high = self.aspect
        if not 0 < low <= high:
            raise ValueError(f"aspect is {low}, {high}; give two ratios width:height with 0 < low <= high")

    @property
    def crops_per_image(self) -> int:
        return self.num_global + self.num_local


@dataclass(frozen=True, kw_only=True)
class CropKind:
    """One resolution of a policy: what differs between global and local crops."""

    num: int
    size: int
    scale: tuple[float, float]
    blur_probability: float
    solarise_probability: float


def crop_kinds(policy: CropPolicy) -> list[CropKind]:
    """Global crops, then local ones where there are any."""
    kinds = [
        CropKind(
            num=policy.num_global,
            size=policy.global_size,
            scale=policy.global_scale,
            blur_probability=0.2,
            solarise_probability=0.2,
        ),
        CropKind(
            num=policy.num_local,
            size=policy.local_size,
            scale=policy.local_scale,
            blur_probability=0.5,
            solarise_probability=0.0,
        ),
    ]
    return [kind for kind in kinds if kind.num > 0]


def solarise_table(threshold: int = 128) -> list[int]:
    """Solarisation of an 8-bit value: those from `threshold` up are inverted (PIL.ImageOps.solarize)."""
    return [value if value < threshold else 255 - value for value in range(256)]


def random_crop(dali: Dali, images: Any, policy: CropPolicy, kind: CropKind) -> Any:
    """One crop of decoded images, as normalised CHW floats. Only inside a DALI pipeline with conditionals."""
    crops = dali.fn.random_resized_crop(
        images, size=[kind.size, kind.size], random_area=kind.scale, random_aspect_ratio=policy.aspect, antialias=True
    )
    if policy.colour == "full":
        crops = colour(dali, crops)
        crops = blur(dali, crops, kind)
        if kind.solarise_probability > 0:
            crops = solarise(dali, crops, kind.solarise_probability)
    return dali.fn.crop_mirror_normalize(
        crops,
        dtype=dali.types.FLOAT,
        output_layout="CHW",
        mean=[255 * value for value in IMAGENET_MEAN],
        std=[255 * value for value in IMAGENET_STD],
        mirror=dali.fn.random.coin_flip(probability=0.5) if policy.flip else 0,
    )


def colour(dali: Dali, crops: Any) -> Any:
    """Jitter of brightness .4, contrast .4, saturation .2 and hue .1 with p = .8; grey with p = .2."""
    jitter = dali.fn.random.coin_flip(probability=0.8)
    grey = dali.fn.random.coin_flip(probability=0.2)
    saturation = (1.0 + jitter * dali.fn.random.uniform(range=[-0.2, 0.2])) * (1.0 - grey)
    return dali.fn.color_twist(
        crops,
        brightness=1.0 + jitter * dali.fn.random.uniform(range=[-0.4, 0.4]),
        contrast=1.0 + jitter * dali.fn.random.uniform(range=[-0.4, 0.4]),
        saturation=saturation,
        hue=jitter * dali.fn.random.uniform(range=[-36.0, 36.0]),
    )


def blur(dali: Dali, crops: Any, kind: CropKind) -> Any:
    """Gaussian blur with the kind's probability; sigma .1 to 2 pixels at a crop of 224, in proportion at others."""
    sigma = dali.fn.random.uniform(range=[0.1, max(0.2, 2.0 * kind.size / 224)])
    if dali.fn.random.coin_flip(probability=kind.blur_probability, dtype=dali.types.BOOL):  # a branch for each sample
        crops = dali.fn.gaussian_blur(crops, sigma=sigma)
    return crops


def solarise(dali: Dali, crops: Any, probability: float) -> Any:
    """Solarisation with a probability, by table: the same bits as arithmetic, in half the time."""
    if dali.fn.random.coin_flip(probability=probability, dtype=dali.types.BOOL):  # a branch for each sample
        crops = dali.fn.lookup_table(crops, keys=list(range(256)), values=solarise_table(), dtype=dali.types.UINT8)
    return crops
