"""Shared fixtures: the embedded generator's engines, built once a session."""

import shutil
from pathlib import Path

import pytest
import torch
from support import DIGITS_MODEL, run_command

from synthclone.export.build import command as build
from synthclone.export.pipeline import Pipeline, open_pipeline


@pytest.fixture(scope="session")
def engines(tmp_path_factory) -> Path:
    """ONNX Runtime engines of the embedded generator, fp32, batch 1:4:8."""
    folder = tmp_path_factory.mktemp("engines")
    assert run_command(build, "--model", DIGITS_MODEL, "--batch", "1:4:8", "--device", "cpu", "--output", folder) == 0
    return folder


@pytest.fixture(scope="session")
def pipeline(engines) -> Pipeline:
    """The same, loaded."""
    return open_pipeline(engines, torch.device("cpu"))


@pytest.fixture(scope="session")
def quantized_engines(engines, tmp_path_factory):
    """By format, the same with a U-Net in 8 bits; built when first asked for. `PROMPTS.txt` calibrates it."""
    folder = tmp_path_factory.mktemp("quantized")
    (folder / "PROMPTS.txt").write_text("one\ntwo\nthree\nfour\n")

    def made(form: str) -> Path:
        path = folder / form
        if not path.exists():
            shutil.copytree(engines, path)
            words = ["--batch", "1:4:8", "--device", "cpu", "--calibration", folder / "PROMPTS.txt"]
            assert run_command(build, "--model", DIGITS_MODEL, *words, "--quantize", form, "--output", path) == 0
        return path

    return made
