"""Image sizes that engines take: one fixed size by default, ranges of height and width on request.

Pixels are multiples of 64: the autoencoder divides by 8 and Stable Diffusion's U-Net by 8 again.
"""

from dataclasses import dataclass

from synthclone.engines.spec import AxisRange

MULTIPLE_PIXELS = 64


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """Ranges of height and width in pixels; None is the size that the checkpoint was trained at."""

    height: AxisRange | None = None
    width: AxisRange | None = None


def parse_sizes(image_size: int | None, height: str | None, width: str | None) -> ImageSizes:
    """What the options ask for.

    Raises:
        ValueError: a size that is no multiple of 64, a range out of order, or a square and a side at once.
    """
    if image_size is not None and (height or width):
        raise ValueError(f"--image-size {image_size} is a square; give that, or --height and --width, but not both")
    if image_size is not None:
        side = _pixels("--image-size", str(image_size))
        return ImageSizes(height=side, width=side)
    return ImageSizes(
        height=_pixels("--height", height) if height else None, width=_pixels("--width", width) if width else None
    )


def _pixels(option: str, text: str) -> AxisRange:
    plain = AxisRange.parse(text)
    wrong = [size for size in (plain.minimum, plain.optimum, plain.maximum) if size % MULTIPLE_PIXELS]
    if wrong:
        below = wrong[0] // MULTIPLE_PIXELS * MULTIPLE_PIXELS
        near = f"{below} or {below + MULTIPLE_PIXELS}" if below else str(MULTIPLE_PIXELS)
        raise ValueError(f"{option} {text}: {wrong[0]} pixels are no multiple of {MULTIPLE_PIXELS}; take {near}")
    return AxisRange(minimum=plain.minimum, optimum=plain.optimum, maximum=plain.maximum, step=MULTIPLE_PIXELS)
