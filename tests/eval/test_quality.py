"""`synthclone quality` from end to end: synthetic digits against scikit-learn's, its cache, and what can be wrong."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import DIGITS_MODEL, run_command

from synthclone.engines.files import read_json, write_json
from synthclone.eval import feature_cache
from synthclone.eval.extractors import embed_prompts, load_clip, open_extractor
from synthclone.eval.feature_cache import compute_features
from synthclone.eval.features import network_scorer, run_network
from synthclone.eval.image_sources import open_source
from synthclone.eval.quality import QualityConfig, command, measure_quality
from synthclone.export.resnet import make_model
from synthclone.gen import digits, storage
from synthclone.gen.generate import command as generate
from synthclone.gen.shards import Sample, read_dataset, write_manifest, write_shard
from synthclone.train.checkpoint import Metadata, load_checkpoint, save_tensors

CPU = torch.device("cpu")
PER_CLASS = 7


@pytest.fixture(scope="module")
def synthetic(engines, tmp_path_factory) -> Path:
    """Seven synthetic digits a class, in three shards."""
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    words = ("--classes", "digits", "--solver", "ddim", "--steps", 2, "--per-class", PER_CLASS, "--shard-size", 30)
    assert run_command(generate, "--engines", engines, *words, "--device", "cpu", "--output", folder) == 0
    return folder


@pytest.fixture(scope="module")
def real(synthetic, tmp_path_factory) -> Path:
    """Eight real digits a class, under the same class keys."""
    folder = tmp_path_factory.mktemp("real")
    images_NHWC, labels_N = digits.load("held_out")
    for label, key in enumerate(read_dataset(synthetic).class_keys):
        (folder / key).mkdir()
        for i in np.flatnonzero(labels_N == label)[:8]:
            Image.fromarray(images_NHWC[i]).save(folder / key / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A ResNet-18 with random weights."""
    model = make_model("resnet18", num_classes=10, generator=torch.Generator().manual_seed(0))
    for name, values in model.named_parameters():
        if name.endswith("bn2.weight"):  # at 0, as initialised, the features of small images are of their corner alone
            torch.nn.init.ones_(values)
    file = tmp_path_factory.mktemp("checkpoint") / "last.safetensors"
    metadata = Metadata(arch="resnet18", classes=(), image_size=32, crop_ratio=0.8, config={})
    save_tensors(file, model.state_dict(), metadata)
    return file


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A tiny CLIPModel with random weights and the digits model's tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip") / "clip"
    tokenizer = DIGITS_MODEL / "tokenizer"
    vocabulary = read_json(tokenizer / "vocab.json")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**tower, "vocab_size": len(vocabulary) + 8, "eos_token_id": max(vocabulary.values())},
            vision_config={**tower, "image_size": 32, "patch_size": 8},
            projection_dim=16,
        )
    )
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    write_json(folder / "preprocessor_config.json", {"size": {"shortest_edge": 40}})
    return folder


@pytest.fixture
def config(synthetic, real, checkpoint, tmp_path):
    """A configuration, with changes."""
    base = {"synthetic": synthetic, "real": real, "features": checkpoint, "output": tmp_path / "quality.json"}

    def with_changes(**changes):
        options = base | {"num_threads": 1, "kid_subsets": 5} | changes
        return QualityConfig(**options | {name: str(options[name]) for name in ("synthetic", "real")})

    return with_changes


def test_whole_command(synthetic, real, checkpoint, clip, tmp_path, capsys):
    output = tmp_path / "out" / "quality.json"
    words = ("--synthetic", synthetic, "--real", real, "--features", checkpoint, "--clip", clip, "--output", output)
    assert run_command(command, *words) == 0
    results, printed = json.loads(output.read_text()), capsys.readouterr()
    assert results["overall"]["num_synthetic"] == 70 and results["overall"]["num_real"] == 80
    assert sorted(results["by_class"]) == sorted(read_dataset(synthetic).class_keys)
    for row in [results["overall"], *results["by_class"].values()]:
        assert row["fid"] > 0 and np.isfinite(row["kid"]) and 0 <= row["clip_score"] <= 100
        assert all(0 <= row[name] <= 1 for name in ("precision", "recall", "coverage"))
    assert results["num_features"] == 512 and results["overall"]["num_repeated"] == 0
    assert results["num_bad_images"] == {"synthetic": 0, "real": 0}
    assert "all images" in printed.out and "clip_score" in printed.out
    assert "10 of 10 classes: FID is too high" in printed.err
    with Image.open(output.with_suffix(".png")) as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_features_are_those_of_eval(real, checkpoint, tmp_path):
    model, metadata = load_checkpoint(checkpoint)
    options = {"batch_size": 16, "num_threads": 1}
    expected = run_network(network_scorer(model, CPU), metadata, real, (), device=CPU, **options)
    got = compute_features(open_source(str(real)), open_extractor(checkpoint, None, CPU), tmp_path, **options)
    assert got.labels_N.tolist() == expected.labels_N.tolist()
    np.testing.assert_allclose(got.rows(CPU).tensor().numpy(), expected.features_NF, rtol=1e-4, atol=1e-5)


def test_a_set_against_itself(config, synthetic):
    results = measure_quality(config(real=synthetic))
    row = results["overall"]
    assert row["fid"] == pytest.approx(0, abs=1e-6)
    assert row["kid"] < 0  # unbiased: the pairs of equal images raise only the term between the sets
    assert (row["precision"], row["recall"], row["coverage"]) == (1, 1, 1)


def test_a_set_at_a_url_is_copied_here_shard_by_shard(config, synthetic, tmp_path, monkeypatch):
    """And not at all where the features are kept already."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    there = storage.at("memory://quality/set")
    for path in synthetic.iterdir():
        there.write(path.name, path.read_bytes())
    remote = measure_quality(config(synthetic=there.url))
    assert remote["overall"] == measure_quality(config())["overall"]
    copied = tmp_path / "home" / ".cache" / "synthclone" / "shards"
    assert len(list(copied.glob("*.tar"))) == 3
    shutil.rmtree(copied)
    assert measure_quality(config(synthetic=there.url))["num_computed"]["synthetic"] == 0
    assert not copied.exists()


def test_the_cache_goes_on_where_it_was_interrupted(config, monkeypatch):
    whole = measure_quality(config())
    cache = config().output.parent / "features"
    files = sorted(cache.rglob("*.safetensors"))
    assert len(files) == 4 and whole["num_computed"] == {"synthetic": 70, "real": 80}
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:100])
    files[2].write_bytes(files[2].read_bytes()[:-1000] + bytes(1000))
    files[3].write_bytes(files[3].read_bytes().replace(b"prompts", b"prxmpts", 1))
    calls, plain = [], feature_cache.compute_piece
    monkeypatch.setattr(feature_cache, "compute_piece", lambda *args: calls.append(args) or plain(*args))
    again = measure_quality(config())
    assert len(calls) == 4
    for name in ("overall", "by_class"):
        assert again[name] == whole[name]
    assert measure_quality(config())["num_computed"] == {"synthetic": 0, "real": 0}
    with pytest.raises(ValueError, match=r"a name that ends in \.json"):
        config(output=config().output.with_suffix(".png"))


def test_a_shard_that_is_not_its_markers_is_refused_and_not_kept(config, synthetic, tmp_path, capsys):
    """Else what it gave would stand for the shard even after its repair."""
    mine = tmp_path / "set"
    shutil.copytree(synthetic, mine)
    whole = (mine / "000001.tar").read_bytes()
    (mine / "000001.tar").write_bytes(whole[:4000] + bytes(100) + whole[4100:])
    with pytest.raises(ValueError, match=r"000001\.tar does not have the sha256 of its marker"):
        measure_quality(config(synthetic=mine))
    (mine / "000001.tar").write_bytes(whole)
    assert measure_quality(config(synthetic=mine))["overall"]["num_synthetic"] == 70


def test_other_weights_and_changed_files_are_computed_anew(config, real, checkpoint, tmp_path):
    mine = tmp_path / "real"
    shutil.copytree(real, mine)
    measure_quality(config(real=mine))
    picture = next(mine.rglob("*.png"))
    Image.new("RGB", (64, 64), (9, 99, 200)).save(picture)
    assert measure_quality(config(real=mine))["num_computed"] == {"synthetic": 0, "real": 80}
    model, metadata = load_checkpoint(checkpoint)
    torch.nn.init.normal_(model.conv1.weight, generator=torch.Generator().manual_seed(3))
    save_tensors(tmp_path / "other.safetensors", model.state_dict(), metadata)
    changed = measure_quality(config(real=mine, features=tmp_path / "other.safetensors"))
    assert changed["num_computed"] == {"synthetic": 70, "real": 80}


def test_bad_images_are_named_and_left_out(config, real, tmp_path, capsys):
    mine = tmp_path / "real"
    shutil.copytree(real, mine)
    files = sorted(mine.rglob("*.png"))
    files[0].write_bytes(b"")
    files[1].write_bytes(b"no image")
    for _ in range(2):  # the second time from the cache
        results = measure_quality(config(real=mine))
        assert results["num_bad_images"] == {"synthetic": 0, "real": 2} and results["overall"]["num_real"] == 78
        assert {row["file"] for row in results["bad_images"]["real"]} == {str(file) for file in files[:2]}
        assert capsys.readouterr().err.count("is left out") == 2


def test_clip_score_and_features_are_those_of_transformers(synthetic, clip, tmp_path):
    from transformers import AutoTokenizer

    extractor = open_extractor(clip, None, CPU)
    assert (extractor.metadata.image_size, extractor.metadata.crop_ratio) == (32, 0.8)
    model, tokenizer = load_clip(clip), AutoTokenizer.from_pretrained(clip)
    prompts, images_BCHW = ["three", "a seven"], torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(pixel_values=images_BCHW, **tokenizer(prompts, padding=True, return_tensors="pt"))
        image_BF = torch.nn.functional.normalize(extractor.embed(images_BCHW), dim=1)
    text_BF, num_cut = extractor.embed_text([*prompts, "three " * 100])
    torch.testing.assert_close(image_BF, expected.image_embeds)
    torch.testing.assert_close(torch.nn.functional.normalize(text_BF[:2], dim=1), expected.text_embeds)
    assert num_cut == 1 and embed_prompts(clip, model, prompts, CPU)[1] == 0


def write_set(folder: Path, labels: list[int]) -> Path:
    """A data set of classes a and b with a grey image for each label, without prompts."""
    import io

    samples = []
    for i, label in enumerate(labels):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), (20 * i, 9, 200 * (label % 2))).save(buffer, "JPEG")
        samples.append(Sample(key=f"{i:04d}", jpeg=buffer.getvalue(), fields={"label": label, "class": "ab"}))
    folder.mkdir(parents=True)
    write_shard(storage.at(folder), 0, samples, {})
    write_manifest(storage.at(folder), {"classes": [{"key": "a"}, {"key": "b"}]})
    return folder


def test_a_compiled_classifier_gives_its_class_scores(config, checkpoint, tmp_path):
    from synthclone.export.build import command as build

    model, metadata = load_checkpoint(checkpoint, None)
    named = tmp_path / "named.safetensors"
    save_tensors(named, model.state_dict(), dataclasses.replace(metadata, classes=tuple("abcdefghij")))
    words = ("--model", named, "--backend", "eager", "--batch", "2:4:8", "--device", "cpu")
    assert run_command(build, *words, "--output", tmp_path / "engine") == 0
    engine, plain = open_extractor(tmp_path / "engine", None, CPU), open_extractor(named, None, CPU)
    assert engine.num_features == 10 and engine.key != plain.key
    images_BCHW = torch.randn(19, 3, 32, 32)
    with torch.inference_mode():
        expected = model.eval()(images_BCHW)
    torch.testing.assert_close(engine.embed(images_BCHW), expected, atol=1e-4, rtol=1e-4)
    results = measure_quality(config(features=tmp_path / "engine"))
    assert results["overall"]["fid"] > 0


def test_few_images_give_no_silent_number(config, tmp_path):
    few = write_set(tmp_path / "few", [0, 1, 1, 1])
    results = measure_quality(config(synthetic=few, real=few))
    assert results["by_class"]["a"]["fid"] is None and results["by_class"]["a"]["kid"] is None
    assert results["by_class"]["b"]["fid"] == pytest.approx(0, abs=1e-6) and results["by_class"]["b"]["recall"] is None
    text = " ".join(results["warnings"])
    assert "1 of 2 classes: no FID and KID" in text and "2 of 2 classes: no precision" in text


def test_mistakes_are_one_line_and_exit_code_2(synthetic, real, checkpoint, clip, tmp_path, capsys):
    one, two = write_set(tmp_path / "one", [0, 0]), write_set(tmp_path / "two", [0, 1])
    wrong = write_set(tmp_path / "wrong", [0, 2])
    (tmp_path / "engine").mkdir()
    write_json(tmp_path / "engine" / "classifier.json", {"format": 0})
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "inception.pt"))
    halved = tmp_path / "halved"
    shutil.copytree(clip, halved)
    (halved / "model.safetensors").write_bytes((clip / "model.safetensors").read_bytes()[:1000])
    for changes, message in (
        ({"real": tmp_path / "nowhere"}, "nowhere is no folder; give an ImageFolder"),
        ({"synthetic": one, "real": two}, "has no readable image of 1 classes of"),
        ({"synthetic": wrong, "real": two}, "has label 2, but dataset.json lists 2 classes"),
        ({"features": tmp_path / "engine"}, "classifier.json has format 0"),
        ({"features": tmp_path / "inception.pt"}, "has code in it"),
        ({"features": tmp_path / "none.pth"}, "none.pth does not exist"),
        ({"features": tmp_path}, "is no CLIP model; give a folder with config.json"),
        ({"clip": tmp_path / "none"}, "none is no CLIP model; give a folder with config.json"),
        ({"clip": checkpoint}, "last.safetensors is no CLIP model"),
        ({"clip": halved}, "halved cannot be loaded as a CLIPModel"),
        ({"synthetic": two, "real": two, "clip": clip}, "have no prompt; leave out --clip"),
        ({"neighbours": 0}, "--neighbours is 0; give 1 or more"),
        ({"kid-subset-size": 1}, "--kid-subset-size is 1; give 2 or more"),
        ({"neighbour-images": 5}, "--neighbour-images is 5; give more than --neighbours, 5"),
    ):
        options = {"synthetic": synthetic, "real": real, "features": checkpoint, "output": tmp_path / "out" / "q.json"}
        words = [word for name, value in (options | changes).items() for word in (f"--{name}", value)]
        assert run_command(command, *words) == 2, message
        *bars, error = capsys.readouterr().err.splitlines()
        assert message in error and error.startswith("synthclone quality: error: "), error
        assert not any("error" in line for line in bars)
    assert not (tmp_path / "out" / "q.json").exists()
