"""Guidance and solver step in one pass over memory: numba on the CPU, PyTorch on a GPU.

    guided = without + scale * (with_prompt - without)      (Ho & Salimans, 2022)

followed by the step of `solvers.py`. Separately these are a dozen passes over the latents.
"""

from typing import Any

import numba
import numpy as np
import torch

from synthclone.gen.solvers import HISTORY, Step


@numba.njit(cache=True, nogil=True)
def _fused_step(latent, start, without, with_prompt, scale, past, weights, data, after, remembered):  # type: ignore
    """All arrays are flat float32 but `past` (3, n); `weights` is (latent, start, h0, h1, h2, h3), `data` (latent, noise)."""
    for i in range(latent.size):
        noise = without[i] + scale * (with_prompt[i] - without[i])
        now = data[0] * latent[i] + data[1] * noise
        total = weights[0] * latent[i] + weights[1] * start[i] + weights[2] * now
        total += weights[3] * past[0, i] + weights[4] * past[1, i] + weights[5] * past[2, i]
        remembered[i] = now
        after[i] = total


class Stepper:
    """The state of one batch's trajectory: where it started and what the solver remembers."""

    def __init__(self, start_BCHW: torch.Tensor) -> None:
        """Begin at the initial noise, float32 on any device."""
        self.start_BCHW = start_BCHW
        self.past_KBCHW = torch.zeros((HISTORY - 1, *start_BCHW.shape), device=start_BCHW.device)

    def step(self, latent_BCHW: torch.Tensor, noise_RCHW: torch.Tensor, step: Step, guidance: float) -> torch.Tensor:
        """The next latents.

        Args:
            latent_BCHW: float32.
            noise_RCHW: the U-Net's prediction in any precision: R = B rows with the prompt, or R = 2B, first those
                without it.
            step: coefficients.
            guidance: scale; unused where R = B.
        """
        count = len(latent_BCHW)
        noise_RCHW = noise_RCHW.float()
        without_BCHW, with_BCHW = noise_RCHW[:count], noise_RCHW[-count:]
        fused = _step_numba if latent_BCHW.device.type == "cpu" else _step_torch
        after_BCHW, now_BCHW = fused(
            latent_BCHW, self.start_BCHW, without_BCHW, with_BCHW, guidance, self.past_KBCHW, step
        )
        if step.push:
            self.past_KBCHW = torch.cat([now_BCHW[None], self.past_KBCHW[:-1]])
        return after_BCHW


def _step_numba(
    latent: torch.Tensor,
    start: torch.Tensor,
    without: torch.Tensor,
    with_prompt: torch.Tensor,
    scale: float,
    past: torch.Tensor,
    step: Step,
) -> tuple[torch.Tensor, torch.Tensor]:
    after, now = torch.empty_like(latent), torch.empty_like(latent)
    weights = np.array((step.latent_weight, step.start_weight, *step.history_weights), dtype=np.float32)
    data = np.array((step.data_latent, step.data_noise), dtype=np.float32)
    flat = [value.contiguous().view(-1).numpy() for value in (latent, start, without, with_prompt)]
    past_KN = past.view(HISTORY - 1, -1).numpy()
    kernel: Any = _fused_step  # numba.njit is typed as if it took no arguments
    kernel(*flat, np.float32(scale), past_KN, weights, data, after.view(-1).numpy(), now.view(-1).numpy())
    return after, now


def _step_torch(
    latent: torch.Tensor,
    start: torch.Tensor,
    without: torch.Tensor,
    with_prompt: torch.Tensor,
    scale: float,
    past: torch.Tensor,
    step: Step,
) -> tuple[torch.Tensor, torch.Tensor]:
    noise = without + scale * (with_prompt - without)
    now = step.data_latent * latent + step.data_noise * noise
    after = step.latent_weight * latent + step.start_weight * start + step.history_weights[0] * now
    for weight, value in zip(step.history_weights[1:], past, strict=True):
        if weight:
            after = after + weight * value
    return after, now
