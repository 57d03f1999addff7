"""Writes prompts of a class list to a text file, one a line: what `synthclone build --calibration` measures with.

    synthclone prompts --classes imagenet100 --prompt c,d --count 32 --output prompts.txt

They are those of the first images that `synthclone generate` would make with the same options.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synthclone.engines import files
from synthclone.engines.command import run
from synthclone.gen.config import PRESETS, DatasetOptions, make_plan


@dataclass(frozen=True, kw_only=True)
class PromptsConfig(DatasetOptions):
    """Write prompts of a class list to a text file, to calibrate a quantized U-Net with."""

    output: Path
    """Text file, one prompt a line."""
    count: int = 32
    """Prompts: those of the first images of the data set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise ValueError(f"--count is {self.count}, but must be 1 or more")
        if not self.output.name:
            raise ValueError(f"--output is {str(self.output)!r}, but must be the path of a text file")


def main(config: PromptsConfig) -> None:
    """Choose and write."""
    plan = make_plan(config)
    if config.count > plan.num_images:
        raise ValueError(
            f"--count is {config.count}, but the data set has {plan.num_images} images; give a higher --per-class"
        )
    chosen = [image.prompt for image in plan.images(range(config.count))]
    config.output.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(config.output) as file:
        file.write("".join(f"{' '.join(prompt.split())}\n" for prompt in chosen).encode())
    print(f"{config.output}: {len(chosen)} prompts, {len(set(chosen))} of them distinct")


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(PromptsConfig, main, prog="synthclone prompts", argv=argv, presets=PRESETS)


if __name__ == "__main__":
    sys.exit(command())
