"""What the TensorRT tests share: the double in the place of `tensorrt`, and a small component with its ONNX files."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the double is a package beside the tests, never installed

from tensorrt_double import assembled, base, host_lane
from tensorrt_double.component import Denoiser, export, make_spec

from synthclone.engines import device_stream
from synthclone.engines.backend import Source

CPU = torch.device("cpu")


def forget_backend() -> None:
    """Drop the modules that have imported `tensorrt`, so that the next import takes what is there then."""
    for name in [name for name in sys.modules if name.startswith("synthclone.engines.tensorrt_")]:
        del sys.modules[name]


@pytest.fixture(scope="module", autouse=True)
def double():
    """The double under the name `tensorrt`, and a lane on the CPU; gone afterwards."""
    before = sys.modules.get("tensorrt")
    forget_backend()
    sys.modules["tensorrt"] = assembled.make_module()
    base.reset()  # for fixtures that build before the first test has a state of its own
    device_stream.LANES["cpu"] = host_lane.HostLane
    yield sys.modules["tensorrt"]
    del device_stream.LANES["cpu"]
    forget_backend()
    if before is None:
        del sys.modules["tensorrt"]
    else:
        sys.modules["tensorrt"] = before


@pytest.fixture(autouse=True)
def state(monkeypatch):
    """The machine that the double pretends to be, new for each test."""
    monkeypatch.setitem(device_stream.LANES, "cpu", host_lane.HostLane)
    state = base.reset()
    yield state
    assert not state.unlike


@pytest.fixture(scope="session")
def component(tmp_path_factory):
    """The module and a fine-tuned one, each with its ONNX file; the graphs are the same."""
    folder = tmp_path_factory.mktemp("onnx")
    base_module, tuned = Denoiser(0).eval(), Denoiser(1).eval()
    return SimpleNamespace(
        module=base_module,
        tuned=tuned,
        onnx=export(base_module, folder / "base" / "model.onnx"),
        tuned_onnx=export(tuned, folder / "tuned" / "model.onnx"),
    )


@pytest.fixture
def build(component, tmp_path):
    """Builds and installs the component's engine under `tmp_path`; keywords override."""

    def run(folder="unet", batch="1:2:6", onnx=component.onnx, precision="fp32", **options):
        from synthclone.engines import artifact

        source = Source(
            module=component.module,
            config={},
            precision=precision,
            digests={"weights": "base", "graph": "g"},
            onnx=onnx,
        )
        return artifact.build(
            make_spec(batch, precision),
            source,
            component.module,
            backend="tensorrt",
            folder=tmp_path / "engines" / folder,
            device=CPU,
            make_module=lambda config: None,
            rebuild_command="synthclone build --model M",
            options=options,
        )

    return run


@pytest.fixture
def load(tmp_path):
    """Opens an installed engine."""

    def run(folder="unet", **runtime):
        from synthclone.engines import artifact
        from synthclone.engines.backend import Runtime

        path = tmp_path / "engines" / folder
        return artifact.open_engine(path, device=CPU, make_module=lambda config: None, runtime=Runtime(**runtime))

    return run


@pytest.fixture
def inputs():
    """Random inputs of a batch size, as keywords."""
    return lambda batch, seed=0: make_spec().sample({"batch": batch}, seed=seed)


@pytest.fixture
def reference(component):
    """What the module answers to such inputs."""

    def run(values, module=component.module):
        with torch.inference_mode():
            return module(values["latent"], values["timestep"], values["text"])

    return run
