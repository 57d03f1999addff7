"""Guidance and solver step in one pass over memory: numba on the CPU, PyTorch on a GPU.

    guided = without + scale * (with_prompt - without)      (Ho & Salimans, 2022)

followed by the step of `solvers.py`. Separately these are a dozen passes over the latents.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
import torch

from synthclone.gen.solvers import KEEP_BASE, Step


class State(NamedTuple):
    """What a step starts from: float32 latents, all of one shape BCHW."""

    latent: torch.Tensor
    base: torch.Tensor
    past: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    """The remembered values, newest first."""


@numba.njit(cache=True, nogil=True)
def _fused_step(  # type: ignore[no-untyped-def]
    latent, base, past0, past1, past2, without, with_prompt, scale, data, weights, after, moved, remembered
):
    """All arrays are flat float32 but `data` (latent, noise) and `weights` (1 or 2, 6), for next and base."""
    for row in range(len(weights)):
        w0, w1, w2, w3, w4, w5 = weights[row]
        if row == 0:  # with the guidance, because it is memory that takes the time
            for i in range(latent.size):
                noise = without[i] + scale * (with_prompt[i] - without[i])
                now = data[0] * latent[i] + data[1] * noise
                remembered[i] = now
                after[i] = w0 * latent[i] + w1 * base[i] + w2 * now + (w3 * past0[i] + w4 * past1[i] + w5 * past2[i])
        else:
            for i in range(latent.size):
                total = w0 * latent[i] + w1 * base[i] + w2 * remembered[i]
                moved[i] = total + (w3 * past0[i] + w4 * past1[i] + w5 * past2[i])


class Stepper:
    """The state of one batch's trajectory: the solver's second latent, and what it remembers."""

    def __init__(self, start_BCHW: torch.Tensor) -> None:
        """Begin at the initial noise, float32 on any device."""
        self.base_BCHW = start_BCHW
        nothing_BCHW = torch.zeros_like(start_BCHW)
        self.past = (nothing_BCHW,) * 3

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
        state = State(latent_BCHW, self.base_BCHW, self.past)
        fused = _step_numba if latent_BCHW.device.type == "cpu" else _step_torch
        after_BCHW, self.base_BCHW, now_BCHW = fused(state, noise_RCHW[:count], noise_RCHW[-count:], guidance, step)
        if step.push:
            self.past = (now_BCHW, *self.past[:-1])
        return after_BCHW


Stepped = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Next latents, next base, and the value to remember."""


def _step_numba(state: State, without: torch.Tensor, with_prompt: torch.Tensor, scale: float, step: Step) -> Stepped:
    keeps = step.base_weights == KEEP_BASE
    after, now = torch.empty_like(state.latent), torch.empty_like(state.latent)
    moved = state.base if keeps else torch.empty_like(state.base)
    weights = np.array([step.next_weights] if keeps else [step.next_weights, step.base_weights], dtype=np.float32)
    data = np.array((step.data_latent, step.data_noise), dtype=np.float32)
    latent, base, without_N, with_N = (
        value.contiguous().view(-1).numpy() for value in (state.latent, state.base, without, with_prompt)
    )
    past = (value.view(-1).numpy() for value in state.past)
    kernel: Any = _fused_step  # numba.njit is typed as if it took no arguments
    results = (value.view(-1).numpy() for value in (after, moved, now))
    kernel(latent, base, *past, without_N, with_N, np.float32(scale), data, weights, *results)
    return after, moved, now


def _step_torch(state: State, without: torch.Tensor, with_prompt: torch.Tensor, scale: float, step: Step) -> Stepped:
    noise = without + scale * (with_prompt - without)
    now = step.data_latent * state.latent + step.data_noise * noise
    values = (state.latent, state.base, now, *state.past)

    def combined(weights: tuple[float, ...]) -> torch.Tensor:
        total = torch.zeros_like(now)
        for weight, value in zip(weights, values, strict=True):
            if weight:
                total.add_(value, alpha=weight)
        return total

    moved = state.base if step.base_weights == KEEP_BASE else combined(step.base_weights)
    return combined(step.next_weights), moved, now
