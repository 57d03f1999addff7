"""Images of another size than the engines are tuned for, from engines that take several."""

import io

import pytest
from PIL import Image
from support import DIGITS_MODEL, run_command

from synthclone.export.build import command as build
from synthclone.gen import reading, shards, storage
from synthclone.gen.generate import command as generate


@pytest.fixture(scope="module")
def engines_of_sizes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    words = ["--model", DIGITS_MODEL, "--backend", "eager", "--batch", "1:2:4", "--device", "cpu", "--output", folder]
    assert run_command(build, *words, "--height", "64:64:128", "--width", "64:64:128") == 0
    return folder


def words(engines, folder, *more):
    common = ["--classes", "digits", "--per-class", 1, "--steps", 2, "--solver", "ddim", "--device", "cpu"]
    return ["--engines", engines, *common, "--output", folder, *more]


@pytest.mark.parametrize(
    ("more", "expected"), [((), (64, 64)), (("--height", 128), (64, 128)), (("--width", 128), (128, 64))]
)
def test_the_size_that_is_asked_for(engines_of_sizes, tmp_path, more, expected):
    assert run_command(generate, *words(engines_of_sizes, tmp_path / "set", *more)) == 0
    target = storage.at(tmp_path / "set")
    sizes = {Image.open(io.BytesIO(sample.jpeg)).size for sample in reading.samples(target, 0)}
    assert sizes == {expected}
    width, height = expected
    assert shards.read_manifest(target)["image_size"] == (height if width == height else [height, width])


def test_a_size_that_the_engines_do_not_take(engines_of_sizes, tmp_path, capsys):
    assert run_command(generate, *words(engines_of_sizes, tmp_path / "set", "--height", 96)) == 2
    assert "--height 96 is not among the engines'" in capsys.readouterr().err
