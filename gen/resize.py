"""From the size that images are generated in to the size that they are stored in."""

import numpy as np
from PIL import Image


def stored_shape(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """Height and width of a stored image: its shorter side as asked for, its proportions kept; 0 leaves it as it is.

    Raises:
        ValueError: the image would have to grow.
    """
    if not shorter_side:
        return height, width
    if shorter_side > min(height, width):
        raise ValueError(
            f"--stored-size {shorter_side} is over the {height}x{width} pixels that are generated; give a smaller one, or 0"
        )
    scale = shorter_side / min(height, width)
    return round(height * scale), round(width * scale)


def resize(image_HWC: np.ndarray, shorter_side: int) -> np.ndarray:
    """A uint8 image in its stored size, by Lanczos; 0 leaves it as it is."""
    height, width = image_HWC.shape[:2]
    shape = stored_shape(height, width, shorter_side)
    if shape == (height, width):
        return image_HWC
    return np.asarray(Image.fromarray(image_HWC).resize(shape[::-1], Image.Resampling.LANCZOS))
