"""Diffusion solvers as tables of coefficients, computed once in float64.

Every solver here is linear in what it has seen, so one step form serves all:

    h0   = data_latent * latent + data_noise * noise          what the step remembers of the U-Net's (guided) prediction
    next = latent_weight * latent + start_weight * start + sum_k history_weights[k] * h_k

where `start` is the initial noise and h1, h2, h3 are earlier remembered values, newest first. Steps with `push = False`
leave no memory. With alpha the cumulative product at a timestep, x = sqrt(alpha) data + sqrt(1 - alpha) noise.

Timesteps and final alphas follow diffusers' schedulers as Stable Diffusion 1.4 configures them; tests hold every solver
against diffusers over whole trajectories.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

SolverName = Literal["ddim", "pndm", "dpm++2m"]
HISTORY = 4


@dataclass(frozen=True, kw_only=True)
class Step:
    """One U-Net call and the update after it; see the module's docstring for the formula."""

    timestep: float
    latent_weight: float
    start_weight: float = 0.0
    history_weights: tuple[float, float, float, float]
    data_latent: float = 0.0
    data_noise: float = 1.0
    push: bool = True


def make_steps(solver: SolverName, num_steps: int, scheduler_config: Mapping[str, Any]) -> tuple[Step, ...]:
    """The steps of a solver.

    Args:
        solver: which one.
        num_steps: as users count them; PNDM makes one U-Net call more.
        scheduler_config: the checkpoint's `scheduler_config.json`.

    Raises:
        ValueError: too few or too many steps, or a scheduler configuration that these solvers do not cover.
    """
    alphas = cumulative_alphas(scheduler_config)
    fewest = 2 if solver == "pndm" else 1
    if not fewest <= num_steps <= len(alphas):
        raise ValueError(f"steps is {num_steps}, but solver {solver} takes {fewest} to {len(alphas)}")
    makers: dict[str, Callable[..., tuple[Step, ...]]] = {"ddim": _ddim, "pndm": _pndm, "dpm++2m": _dpm_2m}
    return makers[solver](num_steps, alphas, scheduler_config)


def cumulative_alphas(config: Mapping[str, Any]) -> np.ndarray:
    """Cumulative product of 1 - beta over the training timesteps, float64.

    Computed in float32 as diffusers (and the training of every checkpoint) did, then widened.
    """
    if config.get("prediction_type", "epsilon") != "epsilon":
        raise ValueError(
            f"prediction_type {config['prediction_type']!r} is not supported; only epsilon is, as in SD 1.x"
        )
    if config.get("beta_schedule") != "scaled_linear":
        raise ValueError(
            f"beta_schedule {config.get('beta_schedule')!r} is not supported; only scaled_linear is, as in SD 1.x"
        )
    import torch  # its float32 cumulative product rounds as diffusers' does

    start, end, count = config["beta_start"], config["beta_end"], config["num_train_timesteps"]
    betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, dim=0).double().numpy()


def _leading_timesteps(num_steps: int, count: int, config: Mapping[str, Any]) -> np.ndarray:
    """ "leading" spacing, descending: multiples of count // num_steps plus the offset."""
    return (np.arange(num_steps) * (count // num_steps))[::-1] + config.get("steps_offset", 0)


def _final_alpha(alphas: np.ndarray, config: Mapping[str, Any]) -> float:
    return 1.0 if config.get("set_alpha_to_one", False) else float(alphas[0])


def _ddim(num_steps: int, alphas: np.ndarray, config: Mapping[str, Any]) -> tuple[Step, ...]:
    """DDIM with eta = 0 (Song et al., 2021, equation 12)."""
    stride, final = len(alphas) // num_steps, _final_alpha(alphas, config)
    steps = []
    for timestep in _leading_timesteps(num_steps, len(alphas), config):
        now = alphas[timestep]
        after = alphas[timestep - stride] if timestep >= stride else final
        scale = np.sqrt(after / now)
        noise_weight = np.sqrt(1 - after) - scale * np.sqrt(1 - now)
        steps.append(
            Step(timestep=float(timestep), latent_weight=float(scale), history_weights=(float(noise_weight), 0, 0, 0))
        )
    return tuple(steps)


def _pndm(num_steps: int, alphas: np.ndarray, config: Mapping[str, Any]) -> tuple[Step, ...]:
    """PNDM's linear multistep form, PLMS (Liu et al., 2022), as Stable Diffusion 1.4 ships it.

    Adams-Bashforth weights on the last four predictions. The start is a Heun step: the first update is made twice from
    `start`, the second time with the mean of the predictions at its two ends.
    """
    bashforth = {2: (3 / 2, -1 / 2, 0, 0), 3: (23 / 12, -16 / 12, 5 / 12, 0), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
    stride, final = len(alphas) // num_steps, _final_alpha(alphas, config)
    timesteps = _leading_timesteps(num_steps, len(alphas), config)

    def transfer(timestep: int) -> tuple[float, float]:
        """Weights of latent and noise in equation 11, from a timestep to the one a stride earlier."""
        now = alphas[timestep]
        after = alphas[timestep - stride] if timestep >= stride else final
        divisor = now * np.sqrt(1 - after) + np.sqrt(now * (1 - now) * after)
        return float(np.sqrt(after / now)), float(-(after - now) / divisor)

    scale, weight = transfer(timesteps[0])
    first = Step(timestep=float(timesteps[0]), latent_weight=scale, history_weights=(weight, 0, 0, 0))
    again = Step(
        timestep=float(timesteps[1]),
        latent_weight=0.0,
        start_weight=scale,
        history_weights=(weight / 2, weight / 2, 0, 0),
        push=False,
    )
    steps = [first, again]
    for index, timestep in enumerate(timesteps[1:], start=2):
        scale, weight = transfer(timestep)
        w0, w1, w2, w3 = (weight * share for share in bashforth[min(index, 4)])
        steps.append(Step(timestep=float(timestep), latent_weight=scale, history_weights=(w0, w1, w2, w3)))
    return tuple(steps)


def _dpm_2m(num_steps: int, alphas: np.ndarray, config: Mapping[str, Any]) -> tuple[Step, ...]:
    """DPM-Solver++ (2M), midpoint form (Lu et al., 2022, algorithm 2), ending at sigma 0 with a first-order step.

    It remembers predicted data, x0 = (latent - sigma noise) / alpha. With h the step in log signal-to-noise ratio and r
    the previous step over h, the update is sigma'/sigma latent - alpha' (e^-h - 1) (x0 + (x0 - x0_before) / (2 r)).
    """
    timesteps = np.linspace(0, len(alphas) - 1, num_steps + 1).round()[::-1][:-1].astype(np.int64)
    ratios = np.append(np.sqrt((1 - alphas) / alphas)[timesteps], 0.0)
    signal = 1 / np.sqrt(ratios**2 + 1)
    noise = ratios * signal
    with np.errstate(divide="ignore"):
        log_snr = np.log(signal) - np.log(noise)
    steps = []
    for index, timestep in enumerate(timesteps):
        step_size = log_snr[index + 1] - log_snr[index]
        gain = -signal[index + 1] * np.expm1(-step_size)
        extrapolate = 0.0
        if 0 < index < num_steps - 1:
            extrapolate = step_size / (2 * (log_snr[index] - log_snr[index - 1]))
        steps.append(
            Step(
                timestep=float(timestep),
                latent_weight=float(noise[index + 1] / noise[index]),
                history_weights=(float(gain * (1 + extrapolate)), float(-gain * extrapolate), 0, 0),
                data_latent=float(1 / signal[index]),
                data_noise=float(-noise[index] / signal[index]),
            )
        )
    return tuple(steps)
