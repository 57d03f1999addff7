"""The embedded generator's own three components through the TensorRT backend, and its images."""

import shutil

import pytest
import torch

from synthclone.engines import artifact
from synthclone.export.build import command as build
from synthclone.export.pipeline import ENGINES, open_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(engines, tmp_path_factory):
    """A copy of the session's engines and exports, for a build that has only the plans left to make."""
    path = tmp_path_factory.mktemp("tensorrt") / "engines"
    shutil.copytree(engines, path)
    return path


def test_its_exports_have_only_operators_that_tensorrt_takes(folder):
    from synthclone.engines.onnx_operators import check_operators

    exports = sorted((folder / "onnx").glob("*/model.onnx"))
    assert len(exports) == len(ENGINES)
    for path in exports:
        check_operators(path)


def test_the_pipeline_runs_on_one_lane_as_it_does_elsewhere(folder, pipeline):
    model = artifact.read_manifest(folder / "unet")["rebuild"].split("--model ")[1].split()[0]
    words = ["--model", model, "--backend", "tensorrt", "--batch", "1:4:8", "--device", "cpu", "--output", str(folder)]
    assert build(words) == 0
    made = open_pipeline(folder, CPU)
    names = list(ENGINES)
    assert {artifact.read_manifest(folder / name)["backend"] for name in names} == {"tensorrt"}
    compiled, plain = ([getattr(item, name) for name in names] for item in (made, pipeline))
    assert len({engine._lane for engine in compiled}) == 1
    for engine, other in zip(compiled, plain, strict=True):
        for batch in (2, 3):
            values = other.spec.sample({"batch": batch}, seed=batch)
            torch.testing.assert_close(engine(**values), other(**values), rtol=1e-4, atol=1e-4)
