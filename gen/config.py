"""What a data set can be told to be (`synthclone generate`, `synthclone plan`), and the plan that follows from it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from synthclone.gen import classes, wording
from synthclone.gen.classes import ClassEntry, Share
from synthclone.gen.counts import count_images
from synthclone.gen.guidance import parse_interval
from synthclone.gen.plan import Plan
from synthclone.gen.prompts import TEMPLATES, PromptVariant, fields
from synthclone.gen.solvers import SolverName, fewest_steps

DEFAULT_PER_CLASS = 100
DEFAULT_BACKGROUNDS = "places365"
SafetyMode = Literal["off", "flag", "regenerate"]
PRESETS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """What decides a data set's images, and how they are made."""

    classes: str
    """Class list: digits, imagenet100, imagenet1k, places365, or a .txt of WordNet ids or .yaml of names."""
    prompt: PromptVariant = "c"
    """Prompt variant: class, with hypernym, with definition, or with hypernym inside a background."""
    template: str = ""
    """Prompt of one's own in place of --prompt, with fields {c} class, {h} hypernym, {d} definition, {b} background."""
    captions: Path | None = None
    """File of whole prompts in place of --prompt, lines of CLASS-KEY<TAB>CAPTION; each class runs through its own."""
    lemmas: Share = "all"
    """Names of a WordNet synset that a prompt takes, of class and hypernym alike; all is the paper's literal reading."""
    hypernyms: Share = "all"
    """Direct hypernyms of a class that a prompt takes; all is the paper's literal reading."""
    backgrounds: str = DEFAULT_BACKGROUNDS
    """Backgrounds of c,h-inside-b and of {b}: a named class list, or a .txt of scene names or .yaml of one's own."""
    negative_prompt: str = ""
    """What guidance leads away from."""
    guidance: float = 7.5
    """Scale of classifier-free guidance; 1 turns it off and halves the work."""
    guidance_interval: str = "0:1"
    """FROM:TO, the share of the steps with guidance; the others cost half. 0:1 is all steps, as the paper."""
    solver: SolverName = "pndm"
    """Diffusion solver; pndm is what Stable Diffusion 1.4 ships and the paper used."""
    steps: int = 50
    """Diffusion steps."""
    per_class: int | None = None
    """Images of each class; 100 if neither this nor --counts-from is given."""
    counts_from: Path | None = None
    """ImageFolder tree (such as IMAGENET/train) whose number of images each class gets, imbalance and all."""
    multiplier: int = 1
    """Whole number that all class counts are multiplied by."""
    seed: int = 0
    """Seed of the data set: of every image's noise and of the order."""
    batch: int = 0
    """Images per batch; 0 takes the most that the engines allow."""
    height: int = 0
    """Pixels, for engines that take several heights; 0 takes the one they are tuned for."""
    width: int = 0
    """Pixels, for engines that take several widths; 0 takes the one they are tuned for."""
    stored_size: int = 0
    """Pixels of the shorter side that images are stored with, resized by Lanczos; 0 stores them as generated."""
    quality: int = 95
    """JPEG quality, 1 to 100."""
    shard_size: int = 1000
    """Images per shard, which is also what an interruption costs at most."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if self.template and self.captions:
            raise ValueError("--template and --captions both give whole prompts; give one of them")
        named = self.prompt_fields()
        if self.backgrounds != DEFAULT_BACKGROUNDS and "b" not in named:
            raise ValueError(
                f"--backgrounds {self.backgrounds} does nothing without a background in the prompt; give "
                "--prompt c,h-inside-b or a --template with {b}"
            )
        if self.steps < (fewest := fewest_steps(self.solver)):
            raise ValueError(f"--steps is {self.steps}, but solver {self.solver} takes {fewest} or more")
        if self.per_class is not None and self.counts_from is not None:
            raise ValueError(
                f"--per-class {self.per_class} and --counts-from {self.counts_from} both give class counts; give one of "
                "them (--per-class null takes back the one of a preset)"
            )
        least = {"per_class": 1, "multiplier": 1, "batch": 0, "stored_size": 0, "height": 0, "width": 0, "quality": 1}
        for name, value in least.items():
            given = getattr(self, name)
            if given is not None and given < value:
                raise ValueError(f"--{name.replace('_', '-')} is {given}, but must be {value} or more")
        if self.quality > 100:
            raise ValueError(f"--quality is {self.quality}, but must be 100 or less")
        if self.guidance < 1:
            raise ValueError(f"--guidance is {self.guidance}, but must be 1 (off) or more")
        parse_interval(self.guidance_interval)
        if self.negative_prompt and self.guidance == 1:
            raise ValueError("--negative-prompt does nothing without guidance; give a --guidance over 1")

    def prompt_template(self) -> str:
        """What prompts are made from; empty where captions are whole ones."""
        return "" if self.captions else self.template or TEMPLATES[self.prompt]

    def prompt_fields(self) -> frozenset[str]:
        """The fields that prompts take: of c, h, d and b."""
        template = self.prompt_template()
        return fields(template) if template else frozenset()


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(DatasetOptions):
    """How a data set's images are made, beside what they are."""

    safety: SafetyMode = "off"
    """The checkpoint's own safety checker: off, flag (a field of the image's JSON), or regenerate from another seed."""
    safety_checker: Path | None = None
    """Diffusers folder whose safety checker is used; None takes the checkpoint that the engines were built from."""
    memory_limit: float = 0.0
    """GiB that the engines may take, weights and all; the largest batch that fits is found by trial. 0 takes --batch."""
    distributor: Literal["none", "local", "ray"] = "none"
    """none: this process, or its share under torchrun or srun; local: processes of this machine; ray: a Ray cluster."""
    workers: int = 0
    """Processes of local, or GPUs of ray; 0 takes one for each GPU there is, or one without a GPU."""
    retries: int = 3
    """How many workers may die over one shard before the run stops and names it."""
    profile: Path | None = None
    """File for a Chrome trace of where the time went; a table goes to the screen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 0 or self.retries < 1:
            raise ValueError(f"--workers is {self.workers} and --retries {self.retries}, but must be at least 0 and 1")
        if self.workers and self.distributor == "none":
            raise ValueError(
                f"--workers {self.workers} does nothing with --distributor none; give --distributor local or ray"
            )
        if self.memory_limit < 0:
            raise ValueError(f"--memory-limit is {self.memory_limit}, but must be 0 (none) or more")
        if self.memory_limit and self.batch:
            raise ValueError("--batch and --memory-limit both decide the batch; give one of them")
        if self.safety_checker is not None and self.safety == "off":
            raise ValueError("--safety-checker does nothing with --safety off; give --safety flag or regenerate")
        if self.profile is not None and self.distributor != "none":
            raise ValueError("--profile looks into this process; give --distributor none with it")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(GenerateOptions):
    """Generate a sharded, resumable, reproducible image data set from class names."""

    engines: Path
    """Folder that `synthclone build` made."""
    output: str
    """Folder or URL (s3://, gs://, hf://) for the data set; one that holds part of the same data set is completed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output.strip():
            raise ValueError("--output is empty (a shell variable that is not set?); give a folder or a URL")


def make_plan(config: DatasetOptions) -> Plan:
    """The plan of a configuration; warns where prompts cannot tell classes apart.

    Raises:
        ValueError: an unknown or malformed list, a class without the words that its prompt needs, or without a count.
    """
    entries = classes.load(config.classes, config.lemmas, config.hypernyms)
    template, named = config.prompt_template(), config.prompt_fields()
    if named and not named & {"h", "d"}:
        for name, keys in classes.same_names(entries).items():
            print(
                f"warning: classes {', '.join(keys)} share the name {name!r}, so the prompt {template} makes them alike",
                file=sys.stderr,
            )
    plan = Plan(
        classes=entries,
        counts=class_counts(config, entries),
        template=template,
        backgrounds=wording.load_backgrounds(config.backgrounds) if "b" in named else (),
        captions=wording.load_captions(config.captions, entries) if config.captions else {},
        seed=config.seed,
        shard_size=config.shard_size,
    )
    for entry in entries:  # a class without a hypernym is better known before the first image than after a day
        plan.prompt(entry, 0)
    return plan


def class_counts(config: DatasetOptions, entries: tuple[ClassEntry, ...]) -> tuple[int, ...]:
    """Images of each class."""
    if config.counts_from is not None:
        counts = count_images(config.counts_from, entries)
    else:
        counts = (DEFAULT_PER_CLASS if config.per_class is None else config.per_class,) * len(entries)
    return tuple(count * config.multiplier for count in counts)
