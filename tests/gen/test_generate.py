"""`synthclone generate`: the same pixels as diffusers, the same bytes after SIGKILL, and bad input."""

import functools
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from support import DIGITS_MODEL, run_command

from synthclone.engines import files
from synthclone.gen import sampler, shards
from synthclone.gen.config import GenerateConfig, make_plan
from synthclone.gen.embeddings import Embeddings
from synthclone.gen.generate import command as generate
from synthclone.gen.noise import initial_noise
from synthclone.gen.sampler import Sampler
from synthclone.gen.solvers import make_steps

OPTIONS = (
    "--classes",
    "digits",
    "--prompt",
    "c,d",
    "--guidance",
    "2",
    "--solver",
    "ddim",
    "--steps",
    "3",
    "--device",
    "cpu",
)
OPTIONS += ("--per-class", "6", "--shard-size", "10")


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def unbroken(engines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "set"
    assert run_command(generate, "--engines", engines, *OPTIONS, "--output", folder) == 0
    return folder


def make_sampler(pipeline, steps, guidance, batch=8, **options):
    return Sampler(pipeline=pipeline, text=Embeddings(pipeline), steps=steps, guidance=guidance, batch=batch, **options)


def plan_of(engines):
    return make_plan(GenerateConfig(engines=engines, classes="digits", output="unused", prompt="c,d", per_class=2))


@pytest.mark.parametrize(
    ("solver", "guidance"), [("ddim", 2.0), ("pndm", 7.5), ("dpm++2m", 2.0), ("unipc", 2.0), ("ddim", 1.0)]
)
def test_images_equal_the_diffusers_pipeline(engines, pipeline, solver, guidance):
    import diffusers

    peers = {
        "ddim": diffusers.DDIMScheduler,
        "pndm": diffusers.PNDMScheduler,
        "dpm++2m": diffusers.DPMSolverMultistepScheduler,
        "unipc": diffusers.UniPCMultistepScheduler,
    }
    peer = diffusers.StableDiffusionPipeline.from_pretrained(
        DIGITS_MODEL, torch_dtype=torch.float32, use_safetensors=True
    )
    # Stable Diffusion 1.4's own scheduler configuration asks for no clipping and leaves the spacing to the solver.
    linspace = {"timestep_spacing": "linspace"}
    own = {"ddim": {"clip_sample": False}, "dpm++2m": linspace, "unipc": linspace}.get(solver, {})
    peer.scheduler = peers[solver].from_config(peer.scheduler.config, **own)
    peer.set_progress_bar_config(disable=True)
    planned = plan_of(engines).images(range(5))
    noise = initial_noise([image.seed for image in planned], (4, 8, 8))
    expected = peer(
        [image.prompt for image in planned],
        latents=noise,
        negative_prompt=["blur"] * len(planned),
        guidance_scale=guidance,
        num_inference_steps=4,
        output_type="np",
    ).images
    made = make_sampler(
        pipeline, make_steps(solver, 4, pipeline.info["scheduler"]), guidance, negative_prompt="blur"
    ).images(planned)
    assert np.abs(made.numpy().astype(float) - expected * 255).max() <= 1.01


def test_scale_one_calls_the_unet_on_half_the_rows(engines, pipeline, monkeypatch):
    rows = []
    call = type(pipeline.unet).__call__
    monkeypatch.setattr(
        type(pipeline.unet), "__call__", lambda self, **x: rows.append(len(next(iter(x.values())))) or call(self, **x)
    )
    planned = plan_of(engines).images(range(4))
    steps = make_steps("ddim", 2, pipeline.info["scheduler"])
    for guidance, expected in ((1.0, [4, 4]), (2.0, [8, 8])):
        sampler = make_sampler(pipeline, steps, guidance, batch=4)
        batch = sampler.prepare(planned)
        rows.clear()
        sampler.decode(sampler.latents(batch), planned)
        assert rows == [*expected, 4]  # the last call is the decoder's
    steps = make_steps("pndm", 4, pipeline.info["scheduler"])
    sampler = make_sampler(pipeline, steps, 2.0, batch=4, interval=(0.2, 0.6))
    batch = sampler.prepare(planned)
    rows.clear()
    sampler.decode(sampler.latents(batch), planned)
    assert rows == [4, 8, 8, 4, 4, 4]


def test_guidance_outside_its_interval_is_none(engines, pipeline):
    """Halves of a trajectory put together by hand: without guidance, then with."""
    from synthclone.gen.sampler import denoise

    planned = plan_of(engines).images(range(3))
    text_RLD = Embeddings(pipeline).gather(["", "", "", *(image.prompt for image in planned)])
    text_BLD = text_RLD[3:]
    steps = make_steps("ddim", 4, pipeline.info["scheduler"])  # DDIM remembers nothing between steps
    start = initial_noise([image.seed for image in planned], (4, 8, 8))
    half = denoise(pipeline.unet, start, text_BLD, steps[:2], 1.0)
    expected = denoise(pipeline.unet, half, text_RLD, steps[2:], 3.0)
    made = denoise(pipeline.unet, start, text_RLD, steps, 3.0, (0.5, 1.0))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made, denoise(pipeline.unet, start, text_RLD, steps, 3.0), atol=1e-2)


def test_what_is_written(unbroken):
    dataset = shards.read_dataset(unbroken)
    assert dataset.num_images == 60 and [shard.count for shard in dataset.shards] == [10] * 6
    assert all(shard.sha256 == files.sha256(shard.tar) for shard in dataset.shards)
    manifest = dataset.manifest
    assert manifest["sampling"] | {"backgrounds": []} == manifest["sampling"]
    assert manifest["classes"][0]["prompt"].startswith("zero, 0, nought")
    assert set(manifest["engines"]) == {"text_encoder", "unet", "vae_decoder"}


def test_killed_at_any_moment_the_bytes_are_the_same(engines, unbroken, tmp_path):
    """SIGKILL at random moments, again and again, until a run gets through."""
    folder, chance, kills = tmp_path / "set", random.Random(0), 0
    words = [
        sys.executable,
        "-m",
        "synthclone.cli",
        "generate",
        "--engines",
        str(engines),
        *OPTIONS,
        "--output",
        str(folder),
    ]
    for _ in range(40):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kills < 3:
            while not (folder / "dataset.json").exists() and process.poll() is None:
                time.sleep(0.02)
            time.sleep(chance.uniform(0.0, 1.2))
            os.kill(process.pid, signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        elif process.wait() == 0:
            break
    assert kills == 3
    assert digests(folder) == digests(unbroken)


def test_a_disk_that_fills_up_costs_one_line_and_no_shard(engines, unbroken, tmp_path):
    """The kernel itself refuses to write: no file may grow over 12 kB, which a manifest fits in and a shard does not."""
    folder = tmp_path / "set"
    words = [sys.executable, "-m", "synthclone.cli", "generate", "--engines", str(engines), *OPTIONS]
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (12_000, 12_000))
    result = subprocess.run([*words, "--output", str(folder)], capture_output=True, text=True, preexec_fn=limit)
    assert result.returncode == 2
    assert "000000.tar" in result.stderr.splitlines()[-1] and "free some space" in result.stderr.splitlines()[-1]
    assert [path.name for path in folder.iterdir()] == ["dataset.json"]
    assert run_command(generate, "--engines", engines, *OPTIONS, "--output", folder) == 0
    assert digests(folder) == digests(unbroken)


def test_finished_sets_are_left_alone_and_lost_shards_made_again(engines, unbroken, capsys):
    before = digests(unbroken)
    (unbroken / "000002.json").unlink()
    (unbroken / "000004.tar").write_bytes(b"cut short")
    assert run_command(generate, "--engines", engines, *OPTIONS, "--output", unbroken) == 0
    assert digests(unbroken) == before


def test_one_colour_is_no_picture():
    """Whatever the colour, and also where it is off by what JPEG adds; NaN and Inf neither."""
    image_BCHW = torch.rand(6, 3, 8, 8) * 2 - 1
    image_BCHW[0] = torch.tensor([-0.5, 0.2, 0.9])[:, None, None]
    image_BCHW[1] = image_BCHW[0] + 0.01 * torch.rand(3, 8, 8)
    image_BCHW[2, 1, 3, 3] = float("nan")
    image_BCHW[3, 0, 0, 0] = float("inf")
    image_BCHW[4, :2] = 0.1  # a picture in one channel
    pixels_BHWC = sampler.to_uint8(image_BCHW)
    assert sampler.is_bad(image_BCHW, pixels_BHWC).tolist() == [True, True, True, True, False, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--guidance", "3"), "holds another data set: its sampling.guidance is 2.0, this run's is 3.0"),
        (("--seed", "1"), "its sampling.seed is 0, this run's is 1"),
        (("--per-class", "7"), "its num_images is 60, this run's is 70"),
        (("--prompt", "c"), "its sampling.prompt is 'c,d', this run's is 'c'"),
        (("--steps", "4"), "sampling.steps"),
    ],
)
def test_another_plan_is_refused_and_nothing_lost(engines, unbroken, capsys, words, message):
    before = digests(unbroken)
    assert run_command(generate, "--engines", engines, *OPTIONS, *words, "--output", unbroken) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert digests(unbroken) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--engines", "nowhere"), "holds no engines"),
        (("--classes", "digitz"), "did you mean digits"),
        (("--per-class", "0"), "--per-class is 0"),
        (("--guidance", "0.5"), "--guidance is 0.5"),
        (("--batch", "100"), "over the engines' maximum 8"),
        (("--steps", "0"), "solver ddim takes 1 or more"),
        (("--shard-size", "0"), "shard size is 0"),
        (("--solver", "euler"), "euler"),
        (("--prompt", "d"), "--prompt|prompt"),
        (("--classes", "places365"), "has no definition, which prompt c,d needs"),
    ],
)
def test_bad_options(engines, tmp_path, capsys, words, message):
    import re

    assert run_command(generate, "--engines", engines, *OPTIONS, "--output", tmp_path / "set", *words) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_same_names_are_warned_of(engines, tmp_path, capsys):
    (tmp_path / "cranes.txt").write_text("n02012849\nn03126707\n")
    make_plan(GenerateConfig(engines=engines, classes=str(tmp_path / "cranes.txt"), output="unused", prompt="c"))
    assert "n02012849, n03126707 share the name 'crane'" in capsys.readouterr().err


class Broken:
    """A decoder as fp16 gives it on some GPUs: one image is NaN, one is flat."""

    def __init__(self, engine):
        self.spec, self.device, self.engine = engine.spec, engine.device, engine

    def __call__(self, **inputs):
        image = self.engine(**inputs)
        image[0], image[1] = float("nan"), 0.25
        return image


def test_bad_images_are_decoded_again_in_fp32(engines, pipeline):
    import dataclasses

    planned = plan_of(engines).images(range(4))
    steps = make_steps("ddim", 3, pipeline.info["scheduler"])
    good = make_sampler(pipeline, steps, 2.0).images(planned)
    broken = dataclasses.replace(pipeline, vae_decoder=Broken(pipeline.vae_decoder))
    mended = make_sampler(broken, steps, 2.0).images(planned)
    assert int((mended.int() - good.int()).abs().max()) <= 1


def test_images_that_stay_bad_are_never_stored(engines, pipeline):
    latent = torch.full((2, 4, 8, 8), float("nan"))
    planned = plan_of(engines).images(range(2))
    with pytest.raises(sampler.BadImageError, match=r"image 0 .*NaN, Inf or constant"):
        make_sampler(pipeline, (), 1.0).decode(latent, planned)
