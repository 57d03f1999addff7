"""Engine artifacts: what is refused when it is opened, and what the parity gate lets through, on a small network."""

import json

import pytest
import torch
from torch import nn

from synthclone.engines import artifact, backend, parity
from synthclone.engines.backend import Source
from synthclone.engines.spec import AxisRange, EngineSpec, TensorSpec

CPU = torch.device("cpu")
SPEC = EngineSpec(
    name="toy",
    inputs=(TensorSpec(name="x", dtype="fp32", axes=("batch", 4)),),
    outputs=(TensorSpec(name="y", dtype="fp32", axes=("batch", 4)),),
    ranges={"batch": AxisRange(minimum=1, optimum=3, maximum=6)},
)


def make_module(config):
    return nn.Sequential(nn.Linear(4, config["width"]), nn.Tanh(), nn.Linear(config["width"], 4)).eval()


def build(folder, module=None, reference=None):
    torch.manual_seed(0)
    module = module or make_module({"width": 8})
    source = Source(module=module, config={"width": 8}, precision="fp32", digests={"checkpoint": "abc"})
    return artifact.build(
        SPEC,
        source,
        reference or module,
        backend="eager",
        folder=folder,
        device=CPU,
        make_module=make_module,
        rebuild_command="synthclone build AGAIN",
    )


def open_engine(folder):
    return artifact.open_engine(folder, device=CPU, make_module=make_module)


def test_a_built_engine_opens_and_computes_the_same(tmp_path):
    module = make_module({"width": 8})
    manifest = build(tmp_path / "toy", module)
    x = torch.randn(5, 4)
    torch.testing.assert_close(open_engine(tmp_path / "toy")(x=x), module(x))
    assert set(manifest["parity"]) >= {
        "minimum_vs_reference",
        "maximum_vs_reference",
        "maximum_identical_rows",
        "maximum_vs_batch_1",
    }
    identity = artifact.engine_identity(SPEC, "fp32", {"checkpoint": "abc"}, "eager", CPU)
    assert artifact.is_built(tmp_path / "toy", identity)
    other = artifact.engine_identity(SPEC, "fp32", {"checkpoint": "changed"}, "eager", CPU)
    assert not artifact.is_built(tmp_path / "toy", other)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "no finished engine"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x"), "has 1 bytes instead of .*AGAIN"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors is missing"),
        (lambda folder: flip_a_byte(folder / "weights.safetensors"), "was changed after the build"),
        (lambda folder: edit(folder, versions={"torch": "0.1"}), "manifest was changed after the build"),
        (lambda folder: edit(folder, rekey=True, versions={"torch": "0.1"}), "built with torch 0.1, but here is torch"),
        (
            lambda folder: edit(folder, rekey=True, device={"type": "cuda", "name": "Other"}),
            "built for type cuda, name Other",
        ),
        (lambda folder: edit(folder, format=99), "manifest format 99"),
    ],
)
def test_what_does_not_match_is_refused(tmp_path, damage, message):
    build(tmp_path / "toy")
    damage(tmp_path / "toy")
    with pytest.raises(ValueError, match=message):
        open_engine(tmp_path / "toy")


def edit(folder, rekey=False, **fields):
    manifest = json.loads((folder / "manifest.json").read_text()) | fields
    if rekey:
        manifest["key"] = artifact.key_of({name: manifest[name] for name in artifact.IDENTITY})
    (folder / "manifest.json").write_text(json.dumps(manifest))


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


class BatchDependent(nn.Module):
    """Wrong from the second row on: the fault that the gate is for."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        y = self.inner(x)
        return torch.cat([y[:1], y[1:] + 0.01])


class NotFinite(BatchDependent):
    def forward(self, x):
        return self.inner(x) / 0


@pytest.mark.parametrize(("wrong", "message"), [(BatchDependent, "toy is wrong"), (NotFinite, "NaN or Inf")])
def test_the_gate_refuses_and_keeps_the_old_engine(tmp_path, monkeypatch, wrong, message):
    before = build(tmp_path / "toy")
    module = make_module({"width": 8})
    eager = backend.find("eager")
    load = eager.load

    def load_wrong(*args):
        engine = load(*args)
        engine.module = wrong(engine.module)
        return engine

    monkeypatch.setattr(eager, "load", load_wrong)
    with pytest.raises(parity.ParityError, match=message):
        build(tmp_path / "toy", module)
    monkeypatch.undo()
    assert artifact.read_manifest(tmp_path / "toy")["key"] == before["key"]
    open_engine(tmp_path / "toy")


def test_unknown_backend_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown backend 'tensorflow'; valid backends: .*eager"):
        backend.find("tensorflow")


def test_missing_library_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "synthclone.engines.onnxruntime_backend", raising=False)
    with pytest.raises(ValueError, match=r"needs onnxruntime; install it with `pip install synthclone\[cpu"):
        backend.find("onnxruntime")


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "meta", "nonsense"])
def test_devices_that_are_not_there(name):
    with pytest.raises(ValueError, match="device"):
        backend.pick_device(name)
