"""Shared fixtures: the embedded generator's engines, built once a session."""

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
