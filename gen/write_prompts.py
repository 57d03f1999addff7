"""Writes prompts of a class list to a text file, one a line: what `synthclone build --calibration` measures with.

    synthclone prompts --classes imagenet100 --prompt c,d --count 32 --output prompts.txt

They are the first that `synthclone generate` would ask for with the same classes, variant and seed.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synthclone.engines import files
from synthclone.engines.command import run
from synthclone.gen import classes
from synthclone.gen.config import DatasetOptions, make_plan
from synthclone.gen.prompts import PromptVariant


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Write prompts of a class list to a text file, to calibrate a quantized U-Net with."""

    classes: str
    """Class list: digits, imagenet100, imagenet1k, places365, or a .txt of WordNet ids or .yaml of names."""
    output: Path
    """Text file, one prompt a line."""
    prompt: PromptVariant = "c"
    """Prompt variant: class, with hypernym, with definition, or with hypernym inside a background."""
    backgrounds: str = "places365"
    """Class list whose names are the backgrounds of c,h-inside-b."""
    count: int = 32
    """Prompts; classes come again where there are fewer."""
    seed: int = 0
    """Seed of the choice."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"--count is {self.count}, but must be 1 or more")


def main(config: PromptsConfig) -> None:
    """Choose and write."""
    plan = make_plan(
        DatasetOptions(
            classes=config.classes,
            prompt=config.prompt,
            backgrounds=config.backgrounds,
            seed=config.seed,
            per_class=math.ceil(config.count / len(classes.load(config.classes))),
        )
    )
    chosen = [image.prompt for image in plan.images(range(config.count))]
    config.output.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(config.output) as file:
        file.write("".join(f"{' '.join(prompt.split())}\n" for prompt in chosen).encode())
    print(f"{config.output}: {len(chosen)} prompts, {len(set(chosen))} of them distinct")


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(PromptsConfig, main, prog="synthclone prompts", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
