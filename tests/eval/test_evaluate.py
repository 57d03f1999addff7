"""Evaluation of a small checkpoint on an ImageFolder, against plain PyTorch and PIL; and what can be wrong with it."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synthclone.engines.files import sha256
from synthclone.eval.evaluate import EvalConfig, command, evaluate_folder
from synthclone.eval.imagefolder import batches, list_images
from synthclone.export.resnet import make_model
from synthclone.train.checkpoint import Metadata, load_checkpoint, save_tensors
from synthclone.train.crops import IMAGENET_MEAN, IMAGENET_STD

CLASSES = ("zebra", "ape", "cat")  # not sorted: labels follow the checkpoint, not the folders' names
METADATA = Metadata(arch="resnet18", classes=CLASSES, image_size=32, crop_ratio=0.8, epoch=1, config={})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A ResNet-18 with random weights whose scores differ between images."""
    model = make_model("resnet18", num_classes=3, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.fc.weight, generator=torch.Generator().manual_seed(1))
    file = tmp_path_factory.mktemp("checkpoint") / "last.safetensors"
    save_tensors(file, model.state_dict(), METADATA)
    return file


@pytest.fixture
def folder(tmp_path) -> Path:
    """Seven images a class, of different sizes and kinds."""
    generator = np.random.default_rng(0)
    for key in CLASSES:
        (tmp_path / "real" / key).mkdir(parents=True)
        for i in range(7):
            small = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            image = small.resize((48 + 4 * i, 60), Image.Resampling.BICUBIC)
            image.save(tmp_path / "real" / key / f"{i}.{'png' if i % 2 else 'jpg'}", quality=95)
    return tmp_path / "real"


def plain_images(files) -> torch.Tensor:
    """Resize the shorter side to 40, crop the centre 32, normalise: by PIL."""
    crops = []
    for file in files:
        with Image.open(file) as image:
            scale = 40 / min(image.size)
            size = tuple(round(scale * side) for side in image.size)
            resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
        values_HWC = np.asarray(resized.crop((left, top, left + 32, top + 32))) / 255
        crops.append((values_HWC - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD))
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float()


def test_images_are_those_of_pil(folder) -> None:
    images = list_images(folder, CLASSES)
    got = list(batches(images, METADATA, batch_size=8, num_threads=1, device=torch.device("cpu")))
    assert [len(labels_B) for _, labels_B in got] == [8, 8, 5]
    assert torch.cat([labels_B for _, labels_B in got]).tolist() == list(images.labels) == [0] * 7 + [1] * 7 + [2] * 7
    images_NCHW = torch.cat([images_BCHW for images_BCHW, _ in got])
    difference_NCHW = (images_NCHW - plain_images(images.files)).abs() * 0.225 * 255
    assert difference_NCHW.mean() < 2
    assert difference_NCHW.quantile(0.99) < 12  # a crop that cannot be centred exactly may be one pixel aside


def test_results_are_those_of_a_plain_loop(checkpoint, folder, tmp_path) -> None:
    output = tmp_path / "results.json"
    assert command(["--checkpoint", str(checkpoint), "--data", str(folder), "--output", str(output)]) == 0
    results = json.loads(output.read_text())
    model, _ = load_checkpoint(checkpoint)
    images = list_images(folder, CLASSES)
    with torch.inference_mode():
        scores_NK = torch.cat(
            [
                model(images_BCHW)
                for images_BCHW, _ in batches(images, METADATA, batch_size=1, num_threads=1, device=torch.device("cpu"))
            ]
        )
    correct = (scores_NK.argmax(1) == torch.tensor(images.labels)).float().mean()
    assert results["top1"] == pytest.approx(float(correct))
    assert results["top5"] == 1.0
    assert results["classes"] == list(CLASSES)
    assert np.sum(results["confusion"]) == results["num_images"] == 21
    assert np.trace(results["confusion"]) == round(21 * results["top1"])
    assert results["checkpoint_sha256"] == sha256(checkpoint)
    low, high = results["top1_interval95"]
    assert low <= results["top1"] <= high
    assert (results["probe"], results["num_bad_images"], results["seed"]) == (None, 0, 0)
    assert results["images_per_s"] > 0


def test_bad_images_are_named_left_out_and_counted(checkpoint, folder, tmp_path, capfd) -> None:
    (folder / "ape" / "3.png").write_bytes(b"")
    (folder / "cat" / "5.png").write_bytes(b"no image")
    whole = (folder / "zebra" / "0.jpg").read_bytes()
    (folder / "zebra" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    results = evaluate_folder(EvalConfig(checkpoint=checkpoint, data=folder, output=tmp_path / "r.json"))
    assert (results["num_images"], results["num_bad_images"]) == (18, 3)
    assert {Path(row["file"]).name for row in results["bad_images"]} == {"3.png", "5.png", "0.jpg"}
    assert len([line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]) == 3


def test_the_probe_fits_frozen_features(checkpoint, folder, tmp_path) -> None:
    config = EvalConfig(checkpoint=checkpoint, data=folder, output=tmp_path / "r.json", probe_train=folder)
    result = evaluate_folder(config)["probe"]
    assert result["num_images"] == 21
    assert 0.5 < result["top1"] <= 1  # fitted on the very images, so far above the third that guessing gives
    assert result["mean_per_class"] == pytest.approx(result["top1"])
    assert result["inverse_penalty"] in [10.0**e for e in range(-5, 7)]


def test_weights_without_class_keys_take_the_folders_names(checkpoint, folder, tmp_path) -> None:
    model, _ = load_checkpoint(checkpoint)
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    results = evaluate_folder(EvalConfig(checkpoint=tmp_path / "resnet18.pth", data=folder, output=tmp_path / "r.json"))
    assert results["classes"] == sorted(CLASSES)
    assert results["image_size"] == 224


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def test_mistakes_are_one_line_and_exit_code_2(checkpoint, folder, tmp_path, capsys) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "canary"), protocol=2))
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "stranger" / "dog").mkdir(parents=True)
    model, _ = load_checkpoint(checkpoint)
    torch.save(model.state_dict(), tmp_path / "three.pth")
    (tmp_path / "two" / "a").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "two" / "a" / "0.png")
    for file, data, message in (
        (tmp_path / "evil.pt", folder, "evil.pt is a pickle that is damaged or has code in it"),
        (tmp_path / "none.pt", folder, "none.pt does not exist"),
        (checkpoint, tmp_path / "nowhere", "nowhere is no folder; give an ImageFolder"),
        (checkpoint, tmp_path / "empty", "empty has no images"),
        (checkpoint, tmp_path / "stranger", "dog is no class of the checkpoint, which knows zebra, ape, cat"),
        (tmp_path / "three.pth", tmp_path / "two", "two has 1 class folders"),
    ):
        line = ["--checkpoint", str(file), "--data", str(data), "--output", str(tmp_path / "results.json")]
        assert command(line) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "results.json").exists()
