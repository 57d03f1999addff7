"""Train the embedded generator `gen/models/digits/`: a Stable Diffusion 1.x in small, on real handwritten digits.

    python gen/models/train_digits.py                  # about 45 minutes on two CPU cores; resumes where it was killed

It has the component classes of Stable Diffusion 1.4 (CLIP text encoder and tokenizer, a four-level U-Net with
cross-attention, a KL autoencoder of factor 8, SD's betas and PNDM scheduler) at 64x64 pixels, so that every line of
code that serves it serves `CompVis/stable-diffusion-v1-4` too. It sees only the 1,200 digits of the training split,
with prompts in all four variants, 10 % of them emptied for guidance (Ho & Salimans, 2022). The log is
`train_digits.jsonl` beside this file; states go to `artifacts/train_digits/`.
"""

import copy
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from synthclone.gen import classes, digits
from synthclone.gen.prompts import VARIANTS, prompt

HERE = Path(__file__).parent
# CLIP's own pre-tokenisation pattern (Radford et al., 2021): contractions, words, single digits, the rest.
CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the committed weights were trained with."""

    seed: int = 0
    """Seed of weights, batches, noise and augmentation."""
    vae_steps: int = 900
    """Optimiser steps of the autoencoder."""
    vae_batch: int = 32
    """Images a step."""
    unet_steps: int = 4500
    """Optimiser steps of U-Net and text encoder together."""
    unet_batch: int = 64
    """Latents a step."""
    learning_rate: float = 1e-3
    """Peak AdamW learning rate; 100 warm-up steps, then cosine to zero."""
    prompt_dropout: float = 0.1
    """Share of prompts emptied, so that guidance has an unconditional model."""
    ema_decay: float = 0.998
    """Decay of the weights' moving average, which is what is saved."""
    state_every: int = 250
    """Steps between resumable states."""


def prompt_rows() -> list[list[str]]:
    """Every prompt the generator learns: a row a digit, all four variants, 365 backgrounds."""
    entries = classes.load("digits")
    scenes = [entry.name for entry in classes.load("places365")]
    short = [variant for variant in VARIANTS if variant != "c,h-inside-b"]
    return [
        [prompt(entry, variant) for variant in short] + [prompt(entry, "c,h-inside-b", scene) for scene in scenes]
        for entry in entries
    ]


def build_tokenizer(corpus: list[str], folder: Path) -> Any:
    """A byte-level BPE of CLIP's form: 256 bytes, the same at a word's end, merges learnt from `corpus`, two specials."""
    learner = Tokenizer(models.BPE(unk_token=None, end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern=Regex(CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=1400, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(corpus, trainer)
    merges: Any = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = alphabet + [f"{byte}</w>" for byte in alphabet] + ["".join(pair) for pair in merges]
    words = [*dict.fromkeys(words), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer: Any = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return tokenizer


def build_models(vocabulary: int) -> tuple[Any, Any, Any]:
    """The three networks, freshly initialised: Stable Diffusion 1.4's blocks with fewer channels."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 48, 64),
        layers_per_block=1,
        norm_num_groups=16,
        latent_channels=4,
        sample_size=digits.PIXELS,
    )
    unet = UNet2DConditionModel(
        sample_size=digits.PIXELS // 8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=64,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )
    return vae, unet, text_encoder


def augment(images_NCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Small random shifts, turns and scalings, so that 1,200 digits are not learnt by heart."""
    count = len(images_NCHW)
    draw = torch.rand(count, 4, generator=generator) * 2 - 1
    angle, scale, shift = draw[:, 0] * 0.12, 1 + draw[:, 1] * 0.06, draw[:, 2:] * 0.06
    rows = torch.stack([torch.cos(angle), -torch.sin(angle)], 1), torch.stack([torch.sin(angle), torch.cos(angle)], 1)
    matrix_N23 = torch.cat([torch.stack(rows, 1) * scale[:, None, None], shift[:, :, None]], dim=2)
    grid = functional.affine_grid(matrix_N23, list(images_NCHW.shape), align_corners=False)
    return functional.grid_sample(images_NCHW, grid, padding_mode="border", align_corners=False)


class Loop:
    """A training loop that logs, shows progress, averages weights and resumes from its last state."""

    def __init__(self, name: str, parts: nn.ModuleDict, recipe: Recipe, num_steps: int, folder: Path) -> None:
        self.name, self.parts, self.recipe, self.num_steps = name, parts, recipe, num_steps
        self.path = folder / f"{name}.pt"
        self.average = copy.deepcopy(parts).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(parts.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
        warm_up = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.01, total_iters=100)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, num_steps - 100))
        self.scheduler = torch.optim.lr_scheduler.SequentialLR(self.optimizer, [warm_up, cosine], [100])
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.start = 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            parts.load_state_dict(state["parts"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.generator.set_state(state["generator"])
            self.start = state["step"]

    def steps(self) -> Iterator[int]:
        """Step numbers still to do; the caller calls `update` with the loss of each."""
        yield from tqdm(range(self.start, self.num_steps), desc=self.name, initial=self.start, total=self.num_steps)

    def update(self, step: int, loss: torch.Tensor) -> None:
        """One optimiser step, the moving average, and every so often a log row and a state."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.parts.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        if (step + 1) % 50 == 0:
            row = {
                "stage": self.name,
                "step": step + 1,
                "loss": round(float(loss), 5),
                "unix_time_s": round(time.time()),
            }
            with (self.path.parent / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
        if (step + 1) % self.recipe.state_every == 0 or step + 1 == self.num_steps:
            state = {"parts": self.parts.state_dict(), "average": self.average.state_dict(), "step": step + 1}
            state |= {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
            torch.save(state | {"generator": self.generator.get_state()}, self.path.with_suffix(".part"))
            self.path.with_suffix(".part").rename(self.path)


def train_vae(vae: Any, images_NCHW: torch.Tensor, recipe: Recipe, folder: Path) -> Any:
    """Train the autoencoder to reconstruct; sets its scaling factor so that latents have unit variance."""
    loop = Loop("vae", nn.ModuleDict({"vae": vae}), recipe, recipe.vae_steps, folder)
    for step in loop.steps():
        index = torch.randint(len(images_NCHW), (recipe.vae_batch,), generator=loop.generator)
        batch_BCHW = augment(images_NCHW[index], loop.generator)
        posterior = vae.encode(batch_BCHW).latent_dist
        decoded_BCHW = vae.decode(posterior.sample(loop.generator)).sample
        error = functional.l1_loss(decoded_BCHW, batch_BCHW) + functional.mse_loss(decoded_BCHW, batch_BCHW)
        loop.update(step, error + 1e-6 * posterior.kl().mean())
    vae = loop.average["vae"].eval()
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in images_NCHW.split(100)])
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


def train_unet(
    unet: Any,
    text_encoder: Any,
    tokenizer: Any,
    vae: Any,
    images_NCHW: torch.Tensor,
    labels_N: torch.Tensor,
    recipe: Recipe,
    folder: Path,
) -> tuple[Any, Any]:
    """Train U-Net and text encoder to predict the noise in augmented, encoded digits."""
    rows = prompt_rows()
    tokens_RPL = torch.stack([tokenize(tokenizer, row) for row in rows])
    empty_L = tokenize(tokenizer, [""])[0]
    noise_schedule: Any = DDPMScheduler(**SCHEDULE)
    views = 24
    latents_path = folder / "latents.pt"
    if not latents_path.exists():
        generator = torch.Generator().manual_seed(recipe.seed + 1)
        with torch.no_grad():
            encode = lambda part: vae.encode(augment(part, generator)).latent_dist.sample(generator)  # noqa: E731
            parts = [encode(part) for _ in tqdm(range(views), desc="latents") for part in images_NCHW.split(100)]
        torch.save(torch.cat(parts) * vae.config.scaling_factor, latents_path)
    latents_NCHW = torch.load(latents_path, weights_only=True)
    loop = Loop("unet", nn.ModuleDict({"unet": unet, "text": text_encoder}), recipe, recipe.unet_steps, folder)
    for step in loop.steps():
        size, generator = recipe.unet_batch, loop.generator
        index = torch.randint(len(latents_NCHW), (size,), generator=generator)
        latent_BCHW, label_B = latents_NCHW[index], labels_N[index % len(labels_N)]
        # The three short variants and the 365 backgrounds come up equally often: a quarter each.
        column = torch.randint(4, (size,), generator=generator)
        scene = torch.randint(3, tokens_RPL.shape[1], (size,), generator=generator)
        tokens_BL = tokens_RPL[label_B, torch.where(column < 3, column, scene)]
        dropped = torch.rand(size, generator=generator) < recipe.prompt_dropout
        tokens_BL = torch.where(dropped[:, None], empty_L, tokens_BL)
        noise_BCHW = torch.randn(latent_BCHW.shape, generator=generator)
        time_B = torch.randint(1000, (size,), generator=generator)
        noisy_BCHW = noise_schedule.add_noise(latent_BCHW, noise_BCHW, time_B)
        text_BLD = text_encoder(tokens_BL).last_hidden_state
        predicted_BCHW = unet(noisy_BCHW, time_B, text_BLD).sample
        loop.update(step, functional.mse_loss(predicted_BCHW, noise_BCHW))
    return loop.average["unet"].eval(), loop.average["text"].eval()


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids, N x 77, padded and cut as Stable Diffusion does."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids


def main(recipe: Recipe, folder: Path, output: Path) -> None:
    """Run the recipe and write the diffusers folder in fp16 safetensors, with the log beside this script."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    images_NHWC, labels = digits.load("train")
    images_NCHW = torch.from_numpy(np.ascontiguousarray(images_NHWC)).permute(0, 3, 1, 2).float() / 127.5 - 1
    tokenizer = build_tokenizer([text for row in prompt_rows() for text in row], folder / "tokenizer")
    vae, unet, text_encoder = build_models(len(tokenizer))
    vae = train_vae(vae, images_NCHW, recipe, folder)
    labels_N = torch.from_numpy(labels)
    unet, text_encoder = train_unet(unet, text_encoder, tokenizer, vae, images_NCHW, labels_N, recipe, folder)
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        # As Stable Diffusion 1.4 ships it.
        scheduler=PNDMScheduler(**SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(output, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):  # CLIP's classic pair, for readers that want them
        shutil.copy(folder / "tokenizer" / name, output / "tokenizer" / name)
    shutil.copy(folder / "log.jsonl", HERE / "train_digits.jsonl")


if __name__ == "__main__":
    main(Recipe(), HERE.parents[1] / "artifacts" / "train_digits", HERE / "digits")
