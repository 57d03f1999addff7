"""What the TensorRT tests share: the double in the place of `tensorrt`, and a small component with its ONNX files."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))  # the double is a package beside the tests, never installed

from tensorrt_double import assembled, base, host_lane

from synthclone.engines import device_stream
from synthclone.engines.backend import Source
from synthclone.engines.spec import AxisRange, EngineSpec, TensorSpec

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
    yield sys.modules["tensorrt"]
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


class Denoiser(nn.Module):
    """A U-Net's signature in small: latents, a timestep and a text's states go in, noise comes out."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.into, self.out = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
            self.text, self.norm = nn.Linear(16, 8), nn.GroupNorm(2, 8)

    def forward(self, latent_BCHW, timestep_B, text_BLD):
        dtype = latent_BCHW.dtype
        wave_B = torch.sin(timestep_B.to(dtype) / 100)
        text_BD = self.text(text_BLD).mean(1) + wave_B[:, None]
        hidden_BCHW = self.norm(self.into(latent_BCHW)) * text_BD[:, :, None, None]
        return self.out(nn.functional.silu(hidden_BCHW))


def make_spec(batch: str = "1:2:6", dtype: str = "fp32", name: str = "unet") -> EngineSpec:
    return EngineSpec(
        name=name,
        inputs=(
            TensorSpec(name="latent", dtype=dtype, axes=("batch", 4, 8, 8)),
            TensorSpec(name="timestep", dtype="int64", axes=("batch",), below=1000),
            TensorSpec(name="text", dtype=dtype, axes=("batch", 5, 16)),
        ),
        outputs=(TensorSpec(name="noise", dtype=dtype, axes=("batch", 4, 8, 8)),),
        ranges={"batch": AxisRange.parse(batch)},
    )


def export(module: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    path.parent.mkdir(parents=True)
    sample = (torch.randn(2, 4, 8, 8, dtype=dtype), torch.tensor([1, 2]), torch.randn(2, 5, 16, dtype=dtype))
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.onnx.export(
        module, sample, str(path), dynamo=True, opset_version=20, verbose=False, external_data=True,
        input_names=["latent", "timestep", "text"], output_names=["noise"],
        dynamic_shapes=({0: batch}, {0: batch}, {0: batch}),
    )  # fmt: skip
    return path


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

    def run(folder="unet", batch="1:2:6", onnx=component.onnx, **options):
        from synthclone.engines import artifact

        source = Source(
            module=component.module, config={}, precision="fp32", digests={"weights": "base", "graph": "g"}, onnx=onnx
        )
        return artifact.build(
            make_spec(batch),
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
