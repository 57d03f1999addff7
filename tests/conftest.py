"""Shared fixtures: the embedded generator's engines, built once a session."""

from pathlib import Path

import pytest
import torch

from synthclone.export.build import command as build
from synthclone.export.pipeline import Pipeline, open_pipeline

ROOT = Path(__file__).parents[1]
DIGITS_MODEL = ROOT / "gen" / "models" / "digits"


def run_command(command, *words: object) -> int:
    """A command's exit code, whether it returns it or argparse exits with it."""
    try:
        return command([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code)


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
