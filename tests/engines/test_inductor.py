"""The Inductor backend on a small network: parity, any batch, another process, and everything that it must refuse."""

import copy
import dataclasses
import json
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn

from synthclone.engines import artifact, inductor_backend
from synthclone.engines.artifact import EngineError
from synthclone.engines.backend import Runtime, Source, find
from synthclone.engines.inductor_backend import Options
from synthclone.engines.spec import AxisRange, EngineSpec, TensorSpec
from synthclone.export import graph

CPU = torch.device("cpu")
SPEC = EngineSpec(
    name="toy",
    inputs=(
        TensorSpec(name="x", dtype="bf16", axes=("batch", 4, 8, 8)),
        TensorSpec(name="time", dtype="fp32", axes=("batch",), below=1000),
    ),
    outputs=(TensorSpec(name="y", dtype="bf16", axes=("batch", 4, 8, 8)),),
    ranges={"batch": AxisRange(minimum=1, optimum=3, maximum=6)},
)


class Toy(nn.Module):
    """A convolution, a linear layer and a norm, with a scale for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 32, 3, padding=1), nn.Conv2d(32, 4, 3, padding=1)
        self.norm, self.mix = nn.GroupNorm(4, 32), nn.Linear(32, 32)

    def forward(self, x_BCHW: torch.Tensor, time_B: torch.Tensor) -> torch.Tensor:
        hidden_BCHW = nn.functional.silu(self.norm(self.first(x_BCHW)))
        mixed_BHWC = self.mix(hidden_BCHW.permute(0, 2, 3, 1))
        scale_B111 = torch.sin(time_B).to(x_BCHW.dtype)[:, None, None, None]
        return self.last(hidden_BCHW + mixed_BHWC.permute(0, 3, 1, 2) * scale_B111)


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    return Toy().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, reference):
    folder = tmp_path_factory.mktemp("inductor") / "toy"
    module = copy.deepcopy(reference).bfloat16()
    artifact.build(
        SPEC,
        Source(
            module=module,
            config={},
            precision="bf16",
            digests={"checkpoint": "abc"},
            program=lambda device: graph.compiler_program(module, SPEC, device),
        ),
        reference,
        backend="inductor",
        folder=folder,
        device=CPU,
        make_module=lambda config: nn.Identity(),
        rebuild_command="synthclone build AGAIN",
    )
    return folder


def open_engine(folder):
    return artifact.open_engine(folder, device=CPU, make_module=lambda config: nn.Identity())


def test_it_agrees_with_pytorch_at_every_batch(folder, reference):
    engine = open_engine(folder)
    for batch in range(1, 7):
        inputs = SPEC.sample({"batch": batch}, seed=batch)
        expected = reference(inputs["x"].float(), inputs["time"])
        torch.testing.assert_close(engine(**inputs).float(), expected, atol=0.03, rtol=0.05)
    errors = artifact.read_manifest(folder)["parity"]
    assert {"minimum_vs_reference", "optimum_vs_reference", "maximum_vs_reference"} <= set(errors)


def test_memory_layout_of_inputs_does_not_matter(folder):
    engine, inputs = open_engine(folder), SPEC.sample({"batch": 4}, seed=0)
    expected = engine(**inputs)
    assert expected.is_contiguous()
    channels_last = inputs["x"].to(memory_format=torch.channels_last)
    assert torch.equal(engine(x=channels_last, time=inputs["time"]), expected)
    wide = torch.zeros(4, 5, 9, 9, dtype=torch.bfloat16)
    wide[:, 1:, 1:, 1:] = inputs["x"]
    assert torch.equal(engine(x=wide[:, 1:, 1:, 1:], time=inputs["time"]), expected)
    odd = torch.zeros(5)
    odd[1:] = inputs["time"]
    assert torch.equal(engine(x=inputs["x"], time=odd[1:]), expected)


def test_wrong_inputs_are_refused_by_name(folder):
    engine, inputs = open_engine(folder), SPEC.sample({"batch": 7}, seed=0)
    with pytest.raises(ValueError, match="batch 7 is outside the engine's range 1:3:6"):
        engine(**inputs)
    fits = SPEC.sample({"batch": 2}, seed=0)
    with pytest.raises(ValueError, match=r"x is torch.float32, but must be torch.bfloat16"):
        engine(x=fits["x"].float(), time=fits["time"])
    with pytest.raises(ValueError, match="runs on cpu, but x is on meta"):
        engine(x=fits["x"].to("meta"), time=fits["time"])


def test_a_package_runs_in_a_process_without_diffusers_compiler_and_pickle(folder, tmp_path):
    inputs = SPEC.sample({"batch": 5}, seed=3)
    torch.save(inputs, tmp_path / "inputs.pt")
    code = f"""
import sys
for name in ("diffusers", "transformers", "onnx", "onnxruntime", "synthclone.export"):
    sys.modules[name] = None  # an import of it fails
import torch
from pathlib import Path
inputs = torch.load({str(tmp_path / "inputs.pt")!r})
import pickle, _pickle
def refuse(*args, **kwargs): raise AssertionError("unpickled")
class Refused(pickle.Unpickler):
    load = refuse
pickle.load = pickle.loads = _pickle.load = _pickle.loads = torch.load = refuse
pickle.Unpickler = Refused
from synthclone.engines import artifact
engine = artifact.open_engine(Path({str(folder)!r}), device=torch.device("cpu"), make_module=refuse)
print(engine(**inputs).double().sum().item())
"""
    environment = {"PATH": "", "HOME": str(tmp_path), "CXX": "/no/compiler"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == open_engine(folder)(**inputs).double().sum().item()


@pytest.mark.parametrize(
    ("here", "message"),
    [
        ({"torch": "1.0"}, "built with torch .* but here is torch 1.0"),
        ({"instructions": "sse2 amx_tile"}, "avx2.*which this one lacks; amx_tile, which that one lacked"),
        ({"machine": "riscv64"}, "here is .*machine riscv64"),
    ],
)
def test_another_machine_or_release_is_refused_before_loading(folder, monkeypatch, here, message):
    manifest = artifact.read_manifest(folder)
    if "avx2" not in manifest["versions"]["instructions"].split():
        pytest.skip("not an x86 processor with AVX2")
    versions = manifest["versions"] | here
    monkeypatch.setattr(inductor_backend, "versions", lambda: versions)
    monkeypatch.setattr(inductor_backend, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(EngineError, match=f"{message}.*synthclone build AGAIN"):
        open_engine(folder)


def test_a_package_that_holds_more_than_compiled_code_is_refused(folder, tmp_path):
    package = tmp_path / inductor_backend.PLAN
    for name in ("plan/models/model.json", "plan/data/weights/weight_0", "plan/data/sample_inputs/model.pt"):
        package.write_bytes((folder / inductor_backend.PLAN).read_bytes())
        with zipfile.ZipFile(package, "a") as archive:
            archive.writestr(name, json.dumps({}))
        with pytest.raises(EngineError, match=f"holds {name}, which is not compiled code"):
            inductor_backend.load(tmp_path, SPEC, CPU, lambda config: nn.Identity(), Runtime())
    package.write_bytes(b"not a package")
    with pytest.raises(EngineError, match=r"plan.pt2 is not a compiled package"):
        inductor_backend.check_contents(package)


def test_a_missing_compiler_is_told_in_one_line(reference, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    source = Source(module=reference, config={}, precision="fp32", program=lambda device: pytest.fail("traced"))
    with pytest.raises(ValueError, match=r"no-such-compiler, which is not on this machine; install g\+\+") as error:
        inductor_backend.build(SPEC, source, tmp_path, CPU, Options())
    assert "\n" not in str(error.value)


def test_a_source_without_a_program_is_refused(reference, tmp_path):
    with pytest.raises(ValueError, match=r"give Source\.program"):
        inductor_backend.build(SPEC, Source(module=reference, config={}, precision="fp32"), tmp_path, CPU, Options())


def test_options_become_inductor_settings():
    assert find("inductor") is inductor_backend
    assert inductor_backend.inductor_configs(Options(), "cpu")["freezing"]
    on_gpu = inductor_backend.inductor_configs(Options(max_autotune=True), "cuda")
    assert on_gpu == {"max_autotune": True}


def test_a_range_of_one_size_is_compiled_for_that_size(reference):
    fixed = dataclasses.replace(SPEC, ranges={"batch": AxisRange.parse("2")})
    program = graph.compiler_program(copy.deepcopy(reference).bfloat16(), fixed, CPU)
    assert not program.range_constraints
    assert graph.compiler_program(copy.deepcopy(reference).bfloat16(), SPEC, CPU).range_constraints
