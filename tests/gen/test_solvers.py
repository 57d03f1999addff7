"""Every solver against diffusers' own scheduler, over a whole trajectory, and the fused kernel against PyTorch."""

import inspect

import diffusers
import numpy as np
import pytest
import torch

from synthclone.gen.solvers import make_steps, num_calls
from synthclone.gen.step_kernel import State, Stepper, _step_numba, _step_torch

# Stable Diffusion 1.4's scheduler_config.json, by its published values.
SD14 = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "skip_prk_steps": True,
    "clip_sample": False,
}
PEERS = {
    "ddim": diffusers.DDIMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "dpm++2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}


def fake_unet(latent: torch.Tensor, timestep: float) -> torch.Tensor:
    """A smooth, nonlinear stand-in with a share of noise-like prediction."""
    return torch.tanh(latent * (0.5 + timestep / 2000)) + 0.1 * torch.sin(3 * latent)


def peer_trajectory(name, num_steps, start, guidance):
    accepted = set(inspect.signature(PEERS[name].__init__).parameters)
    leave_out = {"steps_offset"} if name in {"dpm++2m", "unipc"} else set()  # part of the others' "leading" spacing
    scheduler = PEERS[name](**{key: SD14[key] for key in accepted & set(SD14) - leave_out})
    scheduler.set_timesteps(num_steps)
    latents, latent = [], start.double()
    for timestep in scheduler.timesteps:
        without, with_prompt = fake_unet(latent, float(timestep)), fake_unet(latent + 0.3, float(timestep))
        latent = scheduler.step(without + guidance * (with_prompt - without), timestep, latent).prev_sample
        latents.append(latent)
    return latents


@pytest.mark.parametrize("num_steps", [2, 3, 7, 20, 50])
@pytest.mark.parametrize("name", list(PEERS))
def test_trajectory_equals_diffusers(name, num_steps):
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = peer_trajectory(name, num_steps, start, guidance=2.0)
    steps = make_steps(name, num_steps, SD14)
    assert len(steps) == len(expected) == num_calls(name, num_steps)
    stepper, latent = Stepper(start), start
    for step, reference in zip(steps, expected, strict=True):
        noise = torch.cat([fake_unet(latent, step.timestep), fake_unet(latent + 0.3, step.timestep)])
        latent = stepper.step(latent, noise, step, guidance=2.0)
        torch.testing.assert_close(latent, reference.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(PEERS))
def test_kernel_equals_plain_pytorch(name):
    generator = torch.Generator().manual_seed(1)
    latent, base, without, with_prompt = torch.randn(4, 3, 4, 8, 8, generator=generator)
    past = torch.randn(3, 3, 4, 8, 8, generator=generator)
    for step in make_steps(name, 6, SD14):
        state = State(latent, base.clone(), past)
        fast = _step_numba(state, without, with_prompt, 7.5, step)
        plain = _step_torch(state, without, with_prompt, 7.5, step)
        assert torch.equal(state.base, base)
        for one, other in zip(fast, plain, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(PEERS))
def test_the_most_steps_stay_finite(name):
    """Beyond it two timesteps would be the same, and their step in log signal-to-noise ratio zero."""
    for step in make_steps(name, 999, SD14):
        assert np.isfinite([*step.next_weights, *step.base_weights, step.data_latent, step.data_noise]).all()


@pytest.mark.parametrize("offset", [0, 1, 2, 5])
@pytest.mark.parametrize("name", list(PEERS))
def test_every_number_of_steps_that_is_let_through_has_its_timesteps(name, offset):
    config = SD14 | {"num_train_timesteps": 30, "steps_offset": offset}
    made = 0
    for num_steps in range(-1, 35):
        try:
            steps = make_steps(name, num_steps, config)
        except ValueError as error:
            assert "the nearest is" in str(error)
        else:
            assert min(step.timestep for step in steps) >= 0 and max(step.timestep for step in steps) < 30
            made += 1
    assert made >= 20


def test_scale_one_uses_only_the_prompted_rows():
    start = torch.randn(2, 4, 8, 8)
    step = make_steps("ddim", 4, SD14)[0]
    noise = torch.randn(2, 4, 8, 8)
    alone = Stepper(start).step(start, noise, step, guidance=1)
    paired = Stepper(start).step(start, torch.cat([torch.randn(2, 4, 8, 8), noise]), step, guidance=1.0)
    np.testing.assert_allclose(alone, paired, atol=1e-6)


@pytest.mark.parametrize(
    ("solver", "steps", "config", "message"),
    [
        ("pndm", 1, SD14, "takes 2 to 999 with this checkpoint's scheduler; the nearest is 2"),
        ("pndm", 1000, SD14, "takes 2 to 999"),
        ("ddim", 0, SD14, "takes 1 to 999"),
        ("ddim", 1000, SD14, "takes 1 to 999"),
        ("ddim", 1001, SD14 | {"steps_offset": 0}, "takes 1 to 1000"),
        ("ddim", 500, SD14 | {"steps_offset": 2}, "the nearest is 499"),
        ("unipc", 1000, SD14, "takes 1 to 999"),
        ("dpm++2m", 1000, SD14, "takes 1 to 999"),
        ("ddim", 10, SD14 | {"prediction_type": "v_prediction"}, "prediction_type 'v_prediction'"),
        ("ddim", 10, SD14 | {"beta_schedule": "linear"}, "beta_schedule 'linear'"),
    ],
)
def test_unusable_schedules_are_refused(solver, steps, config, message):
    with pytest.raises(ValueError, match=message):
        make_steps(solver, steps, config)
