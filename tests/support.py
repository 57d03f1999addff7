"""What several test files need and no fixture can give: places, and a command's exit code."""

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from synthclone.gen.shards import Sample

ROOT = Path(__file__).parents[1]
DIGITS_MODEL = ROOT / "gen" / "models" / "digits"
MADE = {
    "name": "set",
    "command": "synthclone generate",
    "model": "digits",
    "engines": {"unet": "0123abcd"},
    "versions": {"synthclone": "0.1.0"},
}
"""What the manifest of a generated set tells beside its sampling."""


def run_command(command: Callable[[list[str]], int], *words: object) -> int:
    """A command's exit code, whether it returns it or argparse exits with it."""
    try:
        return command([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code)


def make_samples(count: int, first: int = 0) -> list[Sample]:
    """Small images, each of other pixels, alternately of classes k0 and k1."""
    samples = []
    for i in range(first, first + count):
        buffer = io.BytesIO()
        image = Image.linear_gradient("L").resize((16, 16)).rotate(90 * (i % 4)).point(lambda v, i=i: v // 2 + i)
        image.convert("RGB").save(buffer, "JPEG", quality=95)
        fields = {"label": i % 2, "class": f"k{i % 2}", "prompt": "é", "index": i}
        samples.append(Sample(key=f"{i:09d}", jpeg=buffer.getvalue(), fields=fields))
    return samples
