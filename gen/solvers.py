"""Diffusion solvers as tables of coefficients, computed once in float64.

Every solver here is linear in what it has seen, so one step form serves all:

    h0       = data_latent * latent + data_noise * noise      what the step remembers of the U-Net's (guided) prediction
    latent'  = next_weights . (latent, base, h0, h1, h2, h3)
    base'    = base_weights . (latent, base, h0, h1, h2, h3)

where h1, h2, h3 are earlier remembered values, newest first, and `base` is a second state that begins as the initial
noise: PNDM goes back to it once, UniPC keeps its corrected latents there, the others leave it alone. Steps with
`push = False` leave no memory. With alpha the cumulative product at a timestep, x = sqrt(alpha) data + sqrt(1 - alpha) noise.

Timesteps and final alphas follow diffusers' schedulers as Stable Diffusion 1.4 configures them; tests hold every solver
against diffusers over whole trajectories.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

SolverName = Literal["ddim", "pndm", "dpm++2m", "unipc"]
Weights = tuple[float, float, float, float, float, float]
"""Of latent, base, h0, h1, h2, h3."""
KEEP_BASE: Weights = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One U-Net call and the update after it; see the module's docstring for the formula."""

    timestep: float
    next_weights: Weights
    base_weights: Weights = KEEP_BASE
    data_latent: float = 0.0
    data_noise: float = 1.0
    push: bool = True


def num_calls(solver: SolverName, num_steps: int) -> int:
    """U-Net calls that a solver makes in so many steps, as users count them."""
    return num_steps + (solver == "pndm")


def fewest_steps(solver: SolverName) -> int:
    """The least that a solver can do with: PNDM's start needs two timesteps."""
    return 2 if solver == "pndm" else 1


def check_steps(solver: SolverName, num_steps: int, scheduler_config: Mapping[str, Any]) -> None:
    """Hold a number of steps against the timesteps that there are.

    Args:
        solver: which one.
        num_steps: as users count them.
        scheduler_config: the checkpoint's `scheduler_config.json`.

    Raises:
        ValueError: too few or too many; the message names the nearest number that will do.
    """
    fewest, count = fewest_steps(solver), scheduler_config["num_train_timesteps"]
    if solver in {
        "dpm++2m",
        "unipc",
    }:  # evenly spaced with both ends: with as many steps, one timestep would come twice
        possible = list(range(fewest, count))
    else:
        possible = [
            number
            for number in range(fewest, count + 1)
            if _leading_timesteps(number, count, scheduler_config)[0] < count
        ]
    if num_steps not in possible:
        nearest = min(possible, key=lambda number: abs(number - num_steps))
        raise ValueError(
            f"--steps is {num_steps}, but solver {solver} takes {possible[0]} to {possible[-1]} with this checkpoint's "
            f"scheduler; the nearest is {nearest}"
        )


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
    check_steps(solver, num_steps, scheduler_config)
    makers: dict[str, Callable[..., tuple[Step, ...]]] = {
        "ddim": _ddim,
        "pndm": _pndm,
        "dpm++2m": _dpm_2m,
        "unipc": _unipc,
    }
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
        steps.append(Step(timestep=float(timestep), next_weights=(float(scale), 0, float(noise_weight), 0, 0, 0)))
    return tuple(steps)


def _pndm(num_steps: int, alphas: np.ndarray, config: Mapping[str, Any]) -> tuple[Step, ...]:
    """PNDM's linear multistep form, PLMS (Liu et al., 2022), as Stable Diffusion 1.4 ships it.

    Adams-Bashforth weights on the last four predictions. The start is a Heun step: the first update is made twice from
    the initial noise, the second time with the mean of the predictions at its two ends.
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
    first = Step(timestep=float(timesteps[0]), next_weights=(scale, 0, weight, 0, 0, 0))
    again = Step(timestep=float(timesteps[1]), next_weights=(0, scale, weight / 2, weight / 2, 0, 0), push=False)
    steps = [first, again]
    for index, timestep in enumerate(timesteps[1:], start=2):
        scale, weight = transfer(timestep)
        w0, w1, w2, w3 = (weight * share for share in bashforth[min(index, 4)])
        steps.append(Step(timestep=float(timestep), next_weights=(scale, 0, w0, w1, w2, w3)))
    return tuple(steps)


def _even_schedule(num_steps: int, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Evenly spaced timesteps, and at those and at the end, which is free of noise: signal, noise, log of their ratio."""
    timesteps = np.linspace(0, len(alphas) - 1, num_steps + 1).round()[::-1][:-1].astype(np.int64)
    ratios = np.append(np.sqrt((1 - alphas) / alphas)[timesteps], 0.0)
    signal = 1 / np.sqrt(ratios**2 + 1)
    noise = ratios * signal
    with np.errstate(divide="ignore"):
        return timesteps, signal, noise, np.log(signal) - np.log(noise)


def _dpm_2m(num_steps: int, alphas: np.ndarray, config: Mapping[str, Any]) -> tuple[Step, ...]:
    """DPM-Solver++ (2M), midpoint form (Lu et al., 2022, algorithm 2), ending at sigma 0 with a first-order step.

    It remembers predicted data, x0 = (latent - sigma noise) / alpha. With h the step in log signal-to-noise ratio and r
    the previous step over h, the update is sigma'/sigma latent - alpha' (e^-h - 1) (x0 + (x0 - x0_before) / (2 r)).
    """
    timesteps, signal, noise, log_snr = _even_schedule(num_steps, alphas)
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
                next_weights=(
                    float(noise[index + 1] / noise[index]),
                    0,
                    float(gain * (1 + extrapolate)),
                    float(-gain * extrapolate),
                    0,
                    0,
                ),
                data_latent=float(1 / signal[index]),
                data_noise=float(-noise[index] / signal[index]),
            )
        )
    return tuple(steps)


def _unipc(num_steps: int, alphas: np.ndarray, config: Mapping[str, Any]) -> tuple[Step, ...]:
    """UniPC-2 with B2(h) = e^h - 1, predicting data (Zhao et al., 2023, algorithms 5 to 8), first order at both ends.

    `base` is the latent that the corrector leaves at each timestep: from the base before it, with the prediction at the
    latent that the predictor had reached. The predictor then starts from the base. Both are the exact solution for
    constant data, noise'/noise base + gain m0 with gain = alpha' (1 - e^-h), plus gain times differences of predictions:
    m0 is the newest that was known when the predictor set out, (m1 - m0) / r the slope before it, m' the one reached.
    """
    timesteps, signal, noise, log_snr = _even_schedule(num_steps, alphas)
    orders = [min(2, index + 1, num_steps - index) for index in range(num_steps)]

    def across(index: int) -> tuple[float, float, float, float]:
        """From one timestep to the next: weight of the base, gain, step h, and r, the step before it over h (negative)."""
        step_size = log_snr[index + 1] - log_snr[index]
        ratio = (log_snr[index - 1] - log_snr[index]) / step_size if orders[index] == 2 else -1.0
        gain = -signal[index + 1] * np.expm1(-step_size)
        return float(noise[index + 1] / noise[index]), float(gain), float(step_size), float(ratio)

    steps = []
    for index, timestep in enumerate(timesteps):
        base = np.array([1.0, 0, 0, 0, 0, 0])
        if index > 0:
            scale, gain, step_size, ratio = across(index - 1)
            slope, reached = _corrector_weights(step_size, ratio) if orders[index - 1] == 2 else (0.0, 0.5)
            slope /= ratio
            base = np.array([0, scale, gain * reached, gain * (1 - slope - reached), gain * slope, 0])
        scale, gain, _, ratio = across(index)
        slope = 0.5 / ratio if orders[index] == 2 else 0.0
        after = scale * base + np.array([0, 0, gain * (1 - slope), gain * slope, 0, 0])
        steps.append(
            Step(
                timestep=float(timestep),
                next_weights=tuple(after.tolist()),
                base_weights=tuple(base.tolist()),
                data_latent=float(1 / signal[index]),
                data_noise=float(-noise[index] / signal[index]),
            )
        )
    return tuple(steps)


def _corrector_weights(step_size: float, ratio: float) -> tuple[float, float]:
    """What UniC-2 gives the slope before and the prediction reached: it is exact for data linear and quadratic in log SNR."""
    first = np.expm1(-step_size) / -step_size - 1
    second = first / -step_size - 0.5
    right = np.array([first, 2 * second]) / np.expm1(-step_size)
    slope, reached = np.linalg.solve(np.array([[1.0, 1.0], [ratio, 1.0]]), right)
    return float(slope), float(reached)
