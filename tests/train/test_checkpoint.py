"""Checkpoints: what is saved is what is loaded, other makers' files load, and no code in a file is ever run."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from synthclone.export.resnet import make_model
from synthclone.train.checkpoint import Metadata, load_checkpoint, save_tensors


class Bomb:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture
def model():
    return make_model("resnet18", num_classes=3, generator=torch.Generator().manual_seed(0))


def metadata(arch: str = "resnet18") -> Metadata:
    return Metadata(
        arch=arch, classes=("a", "b", "c"), image_size=32, crop_ratio=1.0, epoch=4, config={"scale": [0.5, 1]}
    )


def test_weights_and_metadata_come_back(model, tmp_path) -> None:
    file = tmp_path / "last.safetensors"
    save_tensors(file, model.to(memory_format=torch.channels_last).state_dict(), metadata())
    loaded, found = load_checkpoint(file)
    assert found == metadata()
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert [path.name for path in tmp_path.iterdir()] == ["last.safetensors"]


@pytest.mark.parametrize(
    "wrap", [lambda w: w, lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}, "epoch": 3}]
)
def test_state_dicts_of_others_load(wrap, model, tmp_path) -> None:
    torch.save(wrap(model.state_dict()), tmp_path / "resnet18.pth")
    loaded, found = load_checkpoint(tmp_path / "resnet18.pth")
    assert (found.arch, found.classes, found.image_size) == ("resnet18", (), 224)
    assert torch.equal(loaded.fc.weight, model.fc.weight)


def test_safetensors_without_metadata_load(model, tmp_path) -> None:
    weights = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    save_file(weights, tmp_path / "timm.safetensors")
    assert load_checkpoint(tmp_path / "timm.safetensors")[1].arch == "resnet18"


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
@pytest.mark.parametrize("name", ["evil.pt", "evil.pth"])
def test_code_in_a_pickle_is_never_run(save, name, model, tmp_path) -> None:
    canary = tmp_path / "canary"
    save({"state_dict": dict(model.state_dict()), "extra": Bomb(canary)}, tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is a pickle that is damaged or has code in it.*\.safetensors"):
        load_checkpoint(tmp_path / name)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.exists()  # the bomb works where somebody unpickles it


def test_another_architecture_is_refused(model, tmp_path) -> None:
    file = tmp_path / "last.safetensors"
    save_tensors(file, model.state_dict(), metadata())
    with pytest.raises(ValueError, match="holds a resnet18, not a resnet50"):
        load_checkpoint(file, "resnet50")
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    with pytest.raises(ValueError, match=r"plain.pt as resnet50: layer1.0.conv1.weight has shape \(64, 64, 3, 3\)"):
        load_checkpoint(tmp_path / "plain.pt", "resnet50")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layer2.0.conv1.weight"), "fits none of resnet18, resnet50"),
        (lambda w: w.pop("fc.weight"), "has no fc.weight"),
        (lambda w: w.pop("layer3.1.bn2.running_var"), "layer3.1.bn2.running_var is missing"),
        (lambda w: w.update({"head.weight": torch.zeros(2)}), "head.weight is not part of the network"),
    ],
)
def test_what_does_not_fit_is_named(change, message, model, tmp_path) -> None:
    weights = dict(model.state_dict())
    change(weights)
    torch.save(weights, tmp_path / "some.pth")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "some.pth")


def test_damaged_missing_and_foreign_files_are_named(model, tmp_path) -> None:
    save_tensors(tmp_path / "last.safetensors", model.state_dict(), metadata())
    whole = (tmp_path / "last.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "model.onnx").touch()
    for name, message in (
        ("cut.safetensors", "cut.safetensors is damaged"),
        ("none.safetensors", "none.safetensors does not exist"),
        ("tensor.pt", "holds a Tensor; save the model's state_dict"),
        ("empty.pt", "empty.pt is a pickle that is damaged"),
        ("model.onnx", r"ends in '\.onnx'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(tmp_path / name)
