"""Image sizes: what the options allow, what the specs then say, and what an engine refuses."""

import json

import pytest
import torch
from support import DIGITS_MODEL, run_command

from synthclone.engines.spec import AxisRange, EngineSpec
from synthclone.export import checkpoint as checkpoints
from synthclone.export import components
from synthclone.export.build import command as build
from synthclone.export.pipeline import open_pipeline, read_info
from synthclone.export.sizes import parse_sizes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--image-size", "100"), "--image-size 100: 100 pixels are no multiple of 64; take 64 or 128"),
        (("--height", "64:100:128"), "--height 64:100:128: 100 pixels are no multiple of 64"),
        (("--width", "32"), "--width 32: 32 pixels are no multiple of 64; take 64"),
        (("--width", "128:64:192"), "range 128:64:192 is out of order"),
        (("--image-size", "64", "--height", "64"), "but not both"),
    ],
)
def test_sizes_that_cannot_be(tmp_path, capsys, words, message):
    assert run_command(build, "--model", DIGITS_MODEL, *words, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def specs(**sides):
    sizes = parse_sizes(sides.get("image_size"), sides.get("height"), sides.get("width"))
    return components.engine_specs(checkpoints.find(str(DIGITS_MODEL)), "fp32", AxisRange.parse("1:4:8"), sizes)


def test_sizes_are_static_unless_asked_for():
    assert specs()["vae_decoder"].outputs[0].axes == ("batch", 3, 64, 64)
    assert specs(image_size=128)["unet"].inputs[0].axes == ("batch", 4, 16, 16)
    assert specs(height="128")["vae_decoder"].outputs[0].axes == ("batch", 3, 128, 64)
    assert set(specs(image_size=128)["unet"].ranges) == {"batch"}


def test_dynamic_sizes_in_a_spec():
    spec = specs(height="64:128:256")["vae_decoder"]
    assert spec.inputs[0].axes == ("batch", 4, "height/8", 8) and spec.outputs[0].axes == ("batch", 3, "height", 64)
    assert EngineSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.outputs[0].shape(spec.sizes("optimum")) == (4, 3, 128, 64)
    assert spec.check({"latent": torch.zeros(2, 4, 32, 8)}) == {"batch": 2, "height": 256}
    for rows, message in (
        (40, r"height 320 is outside the engine's range 64:128:256 in steps of 64"),
        (9, "height 72"),
    ):
        with pytest.raises(ValueError, match=f"{message}.*--height"):
            spec.check({"latent": torch.zeros(2, 4, rows, 8)})


def test_eager_engines_take_what_was_asked_for(tmp_path, capsys):
    words = ("--model", DIGITS_MODEL, "--backend", "eager", "--batch", "1:1:2", "--device", "cpu")
    words = (*words, "--height", "64:64:128", "--width", "128", "--output", tmp_path / "e")
    assert run_command(build, *words) == 0
    assert read_info(tmp_path / "e")["image_size"] == [64, 128]
    assert "--height 64:64:128 --width 128" in read_info(tmp_path / "e")["rebuild"]
    pipeline = open_pipeline(tmp_path / "e", torch.device("cpu"))
    assert pipeline.pixels(128, 0) == {"height": 128} and pipeline.pixels(0, 128) == {}
    assert pipeline.image_shape(128, 0) == (128, 128) and pipeline.image_shape(0, 0) == (64, 128)
    assert pipeline.vae_decoder(latent=torch.zeros(1, 4, 16, 16)).shape == (1, 3, 128, 128)
    with pytest.raises(ValueError, match=r"--height 192 is not among the engines' 64:64:128 in steps of 64"):
        pipeline.pixels(192, 0)
    with pytest.raises(ValueError, match=r"--width 64 is not among the engines' 128; build them with another --width"):
        pipeline.pixels(0, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('{"refittable": true}', "backend eager has no option 'refittable'; valid options: none"),
        ("[1]", "options"),
    ],
)
def test_backend_options(tmp_path, capsys, options, message):
    words = ("--model", DIGITS_MODEL, "--backend", "eager", "--options", options, "--output", tmp_path / "out")
    assert run_command(build, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
