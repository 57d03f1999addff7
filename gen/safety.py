"""The checkpoint's own safety checker: which images it flags, and how a flagged one is made anew.

Stable Diffusion 1.x ships a CLIP vision model with embeddings of unwanted concepts. Its pipeline answers a flagged image
with a black one, which would teach a classifier that some classes are black. Here the checker only tells:

    off         nobody looks
    flag        the image stays, its JSON says `"flagged": true` (`reading.SAFETY_FLAG`)
    regenerate  the image is made again from `noise.retry_seed(seed, 1)`, `(seed, 2)` ... until it passes

Each image is looked at by itself, so that a flag (and with it the bytes of the set) does not depend on its neighbours in
a batch. Storing the flag is left to whoever writes the shards.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthclone.engines import files
from synthclone.gen import reading
from synthclone.gen.config import SafetyMode
from synthclone.gen.maker import Review, Verdict
from synthclone.gen.plan import PlannedImage

MAX_ATTEMPTS = 20
CONFIGS = ("safety_checker/config.json", "feature_extractor/preprocessor_config.json")
MEND = "give --safety off, or --safety-checker DIR with a diffusers folder that has one"
SPECIAL_CARE_ADJUSTMENT = 0.01
"""By how much every concept's threshold falls once a special-care concept is seen (diffusers' safety_checker.py)."""


@dataclass(frozen=True, kw_only=True)
class Checker:
    """A loaded safety checker."""

    module: Any
    """diffusers' StableDiffusionSafetyChecker, in fp32."""
    processor: Any
    """transformers' CLIP image processor, on PIL."""

    def flags(self, images_BHWC: torch.Tensor | np.ndarray) -> list[bool]:
        """Which images (uint8, B x H x W x 3) show an unwanted concept; the images are left as they are."""
        return [self._flag(np.asarray(image_HWC)) for image_HWC in images_BHWC]

    def _flag(self, image_HWC: np.ndarray) -> bool:
        module = self.module
        pixels_BCHW = self.processor(images=[image_HWC], return_tensors="pt", input_data_format="channels_last")
        with torch.inference_mode():
            pooled_BD = module.vision_model(pixels_BCHW["pixel_values"].to(module.device)).pooler_output
            image_BD = torch.nn.functional.normalize(module.visual_projection(pooled_BD))
            special_BS = image_BD @ torch.nn.functional.normalize(module.special_care_embeds).t()
            concept_BC = image_BD @ torch.nn.functional.normalize(module.concept_embeds).t()
            # Rounded as diffusers rounds, so that both draw the line at the same place.
            is_special = (torch.round(special_BS - module.special_care_embeds_weights, decimals=3) > 0).any()
            above_BC = concept_BC - module.concept_embeds_weights + SPECIAL_CARE_ADJUSTMENT * is_special
            return bool((torch.round(above_BC, decimals=3) > 0).any())


def check_folder(folder: Path) -> None:
    """Refuse a folder that has no safety checker, or none that is safe to load.

    Raises:
        ValueError: the message says what it lacks.
    """
    missing = [name for name in CONFIGS if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no safety checker (it lacks {', '.join(missing)}); {MEND}")
    if not list((folder / "safety_checker").glob("*.safetensors")):
        raise ValueError(
            f"{folder}/safety_checker has no .safetensors weights, and pickled ones are never loaded; {MEND}"
        )


def digest(folder: Path) -> str:
    """sha256 of all that decides what the checker of a diffusers folder flags.

    Raises:
        ValueError: it has none.
    """
    check_folder(folder)
    weights = sorted((folder / "safety_checker").glob("*.safetensors"))
    whole = hashlib.sha256()
    for path in (*(folder / name for name in CONFIGS), *weights):
        whole.update(f"{path.name} {files.sha256(path)}\n".encode())
    return whole.hexdigest()


def open_checker(folder: Path, device: torch.device) -> Checker:
    """The safety checker of a diffusers folder, from `safety_checker/` and `feature_extractor/`.

    Raises:
        ValueError: the folder has none, only a pickled one, or one that lacks weights.
    """
    check_folder(folder)
    from diffusers.pipelines.stable_diffusion import safety_checker

    load: Any = (
        safety_checker.StableDiffusionSafetyChecker.from_pretrained
    )  # typed without what `output_loading_info` adds
    try:
        module, report = load(
            folder / "safety_checker",
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder}/safety_checker cannot be loaded ({str(error).splitlines()[0]}); {MEND}") from error
    # transformers fills what a file lacks with random numbers and goes on.
    if absent := sorted(report["missing_keys"]):
        raise ValueError(f"{folder}/safety_checker lacks the weights {', '.join(absent[:3])}; download it again")
    processor = _processor_class().from_pretrained(folder / "feature_extractor", local_files_only=True)
    return Checker(module=module.to(device).eval(), processor=processor)


def _processor_class() -> Any:
    """The one that works on PIL, without torchvision; transformers 5 renamed it."""
    import transformers

    return getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor


def reviewer(checker: Checker, mode: SafetyMode) -> Review:
    """How a `ShardMaker` has its images looked at.

    Raises (when called):
        ValueError: an image was flagged MAX_ATTEMPTS times. Shards mix all classes, so a class that cannot pass shows up
            in the first one.
    """

    def review(planned: Sequence[PlannedImage], attempts: Sequence[int], images_BHWC: np.ndarray) -> list[Verdict]:
        verdicts = []
        for image, attempt, flag in zip(planned, attempts, checker.flags(images_BHWC), strict=True):
            again = flag and mode == "regenerate"
            if again and attempt + 1 >= MAX_ATTEMPTS:
                raise ValueError(
                    f"image {image.index} (class {image.class_key}, prompt {image.prompt!r}) was flagged by the safety "
                    f"checker in all of {MAX_ATTEMPTS} attempts; leave the class out, or use --safety flag"
                )
            verdicts.append(Verdict(fields={reading.SAFETY_FLAG: flag, "attempt": attempt}, again=again))
        return verdicts

    return review
