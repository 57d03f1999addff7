"""What turns images into features: a classifier's network before its last layer, a compiled one, or CLIP's image tower.

All are files on disk: a checkpoint that `synthclone eval` reads, a folder that `synthclone build` made of one (its only
output, the class scores, is the feature), or a folder of a transformers CLIPModel with safetensors weights. Files that
carry code (TorchScript, such as the usual InceptionV3 of FID) are refused.

Shapes: B images or prompts, C channels, H x W pixels, F features, L tokens.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from synthclone.engines.artifact import read_manifest
from synthclone.engines.files import read_json, sha256
from synthclone.eval.features import engine_scorer, network_scorer
from synthclone.export.classifier import open_classifier
from synthclone.train.checkpoint import Metadata, load_checkpoint

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PROMPTS_PER_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network that gives features."""

    embed: Callable[[Tensor], Tensor]
    """Features (B, F) of normalised images (B, C, H, W)."""
    embed_text: Callable[[Sequence[str]], tuple[Tensor, int]] | None
    """Of CLIP: features (B, F) of prompts, and how many prompts were cut off."""
    metadata: Metadata
    """Size, crop and normalisation of the images."""
    num_features: int
    name: str
    sha256: str
    """Of the weights."""
    device: torch.device

    @property
    def key(self) -> str:
        """Changes with whatever changes the features: weights, preparation of the images, and the kind of device."""
        prepared = [getattr(self.metadata, name) for name in ("arch", "image_size", "crop_ratio", "mean", "std")]
        return hashlib.sha256(json.dumps([self.sha256, prepared, self.device.type]).encode()).hexdigest()


def open_extractor(path: Path, arch: str | None, device: torch.device) -> Extractor:
    """A checkpoint's file, a compiled classifier's folder or a CLIP folder.

    Raises:
        ValueError: none of them, damaged, or with code in it.
    """
    if (path / "classifier.json").is_file():
        return open_engine_scores(path, device)
    if path.is_dir():
        return open_clip(path, device)
    model, metadata = load_checkpoint(path, arch)
    score = network_scorer(model, device)
    return Extractor(
        embed=lambda images_BCHW: score(images_BCHW)[0],
        embed_text=None,
        metadata=metadata,
        num_features=model.num_features,
        name=str(path),
        sha256=sha256(path),
        device=device,
    )


def open_engine_scores(folder: Path, device: torch.device) -> Extractor:
    """A compiled classifier: its features are the class scores before the softmax.

    Raises:
        EngineError: damaged, or not for this machine.
    """
    engine, info = open_classifier(folder, device)
    score, most = engine_scorer(engine), engine.spec.ranges["batch"].maximum
    fields = {field.name: info[field.name] for field in dataclasses.fields(Metadata) if field.name in info}
    return Extractor(
        embed=lambda images_BCHW: torch.cat([score(part_BCHW)[1] for part_BCHW in images_BCHW.split(most)]),
        embed_text=None,
        metadata=Metadata(**{"config": {}, **fields, "classes": tuple(info["classes"])}),
        num_features=int(engine.spec.outputs[0].axes[1]),
        name=str(folder),
        sha256=read_manifest(folder / "classifier")["key"],
        device=device,
    )


def open_clip(folder: Path, device: torch.device) -> Extractor:
    """A transformers CLIPModel on disk; its features are the projected embeddings, as they come.

    Raises:
        ValueError: no such folder, another model, or no safetensors weights.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise ValueError(
            f"{folder} is no CLIP model; give a folder with config.json, *.safetensors and the tokenizer, as "
            "transformers' CLIPModel.save_pretrained writes it"
        )
    config = read_json(folder / "config.json")
    if config.get("model_type") != "clip":
        raise ValueError(f"{folder} holds a model of type {config.get('model_type')!r}; give a CLIPModel")
    model = load_clip(folder).to(device).eval()

    def embed(images_BCHW: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(pixel_values=images_BCHW.to(device)).pooler_output)

    digest = hashlib.sha256("".join(map(sha256, [folder / "config.json", *weights])).encode()).hexdigest()
    return Extractor(
        embed=embed,
        embed_text=lambda prompts: embed_prompts(folder, model, prompts, device),
        metadata=clip_metadata(folder, int(model.config.vision_config.image_size)),
        num_features=int(model.config.projection_dim),
        name=str(folder),
        sha256=digest,
        device=device,
    )


def load_clip(folder: Path) -> Any:
    """The model, in fp32."""
    from transformers import CLIPModel

    maker: Any = CLIPModel  # the type of from_pretrained knows nothing of output_loading_info
    try:
        model, info = maker.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} cannot be loaded as a CLIPModel: {error}") from error
    if info["missing_keys"]:  # transformers fills these with random numbers, and only warns
        raise ValueError(f"{folder} lacks weights, such as {min(info['missing_keys'])}; give a whole CLIPModel")
    return model


def clip_metadata(folder: Path, image_size: int) -> Metadata:
    """Size, crop and normalisation by `preprocessor_config.json`; where there is none, as OpenAI's models have them."""
    file = folder / "preprocessor_config.json"
    options = read_json(file) if file.is_file() else {}
    resized = options.get("size", image_size)
    resized = resized.get("shortest_edge", image_size) if isinstance(resized, dict) else resized
    return Metadata(
        arch="clip",
        classes=(),
        image_size=image_size,
        crop_ratio=image_size / resized,
        mean=tuple(options.get("image_mean", CLIP_MEAN)),
        std=tuple(options.get("image_std", CLIP_STD)),
        config={},
    )


@torch.inference_mode()
def embed_prompts(folder: Path, model: Any, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, int]:
    """Text features (B, F), and how many prompts are longer than the model reads (77 tokens in OpenAI's)."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} has no tokenizer ({error}); put tokenizer.json beside the weights") from error
    most = int(model.config.text_config.max_position_embeddings)
    features, num_cut = [], 0
    for start in range(0, len(prompts), PROMPTS_PER_BATCH):
        batch = list(prompts[start : start + PROMPTS_PER_BATCH])
        num_cut += sum(len(row) > most for row in tokenizer(batch)["input_ids"])
        tokens = tokenizer(batch, padding=True, truncation=True, max_length=most, return_tensors="pt")
        hidden = model.text_model(
            input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
        )
        features.append(model.text_projection(hidden.pooler_output).cpu())
    return torch.cat(features), num_cut
