"""The card and its Croissant metadata: valid in form, true to the data set, and the same after an interruption."""

import importlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import run_command

from synthclone.gen import card, croissant, jpeg, shards, storage
from synthclone.gen.merge import command as merge

COMMAND = "synthclone generate --engines engines --classes digits"


def write_dataset(url, *, model="gen/models/digits", safety=None, flagged=None, seed=0):
    """Two shards of three noise images, as `synthclone generate` leaves them."""
    target = storage.at(url)
    generator = np.random.default_rng(seed)
    manifest = {
        "name": "cranes", "command": COMMAND, "num_images": 6, "num_shards": 2, "shard_size": 3, "image_size": [16, 24],
        "classes": [
            {"key": "n01", "name": "crane | bird", "label": 0, "count": 3, "prompt": "crane, $5"},
            {"key": "n02", "name": "grue à pylône", "label": 1, "count": 3, "prompt": "crane, machine"},
        ],
        "sampling": {"prompt": "c,h", "backgrounds": [], "guidance": 2.0, "solver": "ddim", "steps": 20, "seed": 7}
        | ({"safety": safety} if safety else {}),
        "model": model, "model_sha256": "ab" * 32, "engines": {"unet": "0123abcd"}, "jpeg": {"quality": 95},
        "versions": {"synthclone": "0.1.0", "torch": "2.13.0"},
    }  # fmt: skip
    shards.write_manifest(target, manifest)
    for number in range(2):
        samples = [
            shards.Sample(
                key=f"{index:09d}",
                jpeg=jpeg.encode(generator.integers(0, 256, (16, 24, 3), dtype=np.uint8)),
                fields={
                    "label": index % 2, "class": f"n0{index % 2 + 1}", "prompt": "crane", "seed": f"{index:032x}",
                    "serial": index // 2, "index": index, "guidance": 2.0, "solver": "ddim", "steps": 20,
                },
            )
            for index in range(3 * number, 3 * number + 3)
        ]  # fmt: skip
        shards.write_shard(target, number, samples, {} if flagged is None else {"flagged": flagged[number]})
    return target, shards.read_manifest(target)


def write_card(target, manifest):
    card.write_card(target, manifest, shards.markers(target, target.sizes()))
    _, header, text = target.read("README.md").decode().split("---\n", 2)
    return yaml.safe_load(header), text


def test_the_front_matter_is_what_the_hub_asks_for(tmp_path):
    from huggingface_hub import DatasetCardData

    target, manifest = write_dataset(tmp_path)
    header, _ = write_card(target, manifest)
    parsed = DatasetCardData(**header)
    assert parsed.license == "other" and parsed.task_categories == ["image-classification"]
    assert parsed.size_categories == ["n<1K"] and "synthetic" in parsed.tags and parsed.pretty_name == "cranes"
    info = header["dataset_info"]
    assert info["splits"] == [{"name": "train", "num_bytes": target_bytes(tmp_path), "num_examples": 6}]
    names = [feature["name"] for feature in info["features"]]
    assert names == ["__key__", "__url__", "jpg", "json"]
    struct = {field["name"]: field["dtype"] for field in info["features"][3]["struct"]}
    assert struct["label"] == "int64" and struct["guidance"] == "float64" and struct["seed"] == "string"
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "*.tar"}]


def target_bytes(folder):
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


@pytest.mark.parametrize(
    ("count", "category"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (1_281_167, "1M<n<10M"), (64_000_000, "10M<n<100M"), (10**9, "1B<n<10B")],
)
def test_size_categories(count, category):
    manifest = {"model": "m"}
    header = card.front_matter(manifest, {0: {"count": count, "bytes": 1}}, {"label": 1}, "x", "other")
    assert header["size_categories"] == [category]


def test_the_text_says_what_was_made_and_how_and_what_is_wrong_with_it(tmp_path):
    target, manifest = write_dataset(tmp_path)
    _, text = write_card(target, manifest)
    assert "6 images (16 x 24 pixels" in text and "2 shards" in text and f"{COMMAND} --output DIR" in text
    for fact in ("| guidance | `2.0` |", "| model_sha256 | `" + "ab" * 32, "| unet engine | `0123abcd` |", "| torch |"):
        assert fact in text
    assert "| 0 | n01 | crane \\| bird | 3 | crane, $5 |" in text and "grue à pylône" in text
    for concern in ("Stereotypes", "LAION", "domain gap", "alike", "not asked", "Open RAIL", "Labels are wishes"):
        assert concern in text
    assert "No safety checker has looked" in text


def test_an_unfinished_set_says_so(tmp_path):
    target, manifest = write_dataset(tmp_path)
    (tmp_path / "000001.json").unlink()
    assert "3 of 6 planned images" in write_card(target, manifest)[1]


@pytest.mark.parametrize(
    ("mode", "flagged", "sentence"),
    [("flag", (1, 2), '`"flagged": true` in their JSON. 3 are.'), ("regenerate", None, "made again from another seed")],
)
def test_safety_status(tmp_path, mode, flagged, sentence):
    assert sentence in write_card(*write_dataset(tmp_path, safety=mode, flagged=flagged))[1]


def test_stable_diffusion_brings_its_licence(tmp_path):
    header, text = write_card(*write_dataset(tmp_path, model="CompVis/stable-diffusion-v1-4"))
    assert header["license"] == "creativeml-openrail-m" and "Attachment A" in text and "license_link" not in header


def test_a_merged_set_tells_how_each_part_was_made(tmp_path):
    """Two sets of other seeds and safety; and none where real images are among them."""
    write_dataset(tmp_path / "a", model="CompVis/stable-diffusion-v1-4", safety="flag", flagged=(1, 0), seed=1)
    write_dataset(tmp_path / "b", seed=2)
    assert run_command(merge, tmp_path / "a", tmp_path / "b", "--output", tmp_path / "both") == 0
    _, header, text = (tmp_path / "both" / "README.md").read_text().split("---\n", 2)
    assert text.count(f"{COMMAND} --output DIR") == 2 and "Part 2 of 2, 6 images" in text
    assert text.count("| seed | `7` |") == 2 and "12 images (16 x 24 pixels" in text and "4 shards" in text
    assert "`CompVis/stable-diffusion-v1-4, gen/models/digits`" in text and "treated differently" in text
    assert yaml.safe_load(header)["license"] == "other"
    described = json.loads((tmp_path / "both" / "croissant.json").read_text())
    assert {field["name"] for field in described["recordSet"][1]["field"]} <= croissant.MEANINGS.keys()
    write_dataset(tmp_path / "real", seed=3)
    target = storage.at(tmp_path / "real")
    manifest = shards.read_manifest(target)
    del manifest["sampling"]
    shards.write_manifest(target, manifest)
    assert run_command(merge, tmp_path / "b", tmp_path / "real", "--output", tmp_path / "mixed") == 0
    assert not (tmp_path / "mixed" / "README.md").exists()


def test_the_same_set_has_the_same_card_wherever_it_lies_and_shards_are_not_disturbed(tmp_path):
    written = []
    for url in (tmp_path / "here", "memory://card/there"):
        target, manifest = write_dataset(url)
        before = shards.markers(target, target.sizes())
        write_card(target, manifest)
        assert shards.finished(target) == {0, 1} and shards.markers(target, target.sizes()) == before
        written.append([target.read(name) for name in ("README.md", "croissant.json")])
    assert written[0] == written[1]


def test_croissant_is_valid_and_true(tmp_path, caplog, monkeypatch):
    mlcroissant = pytest.importorskip("mlcroissant")
    # Its cache goes by the files' names alone, which all data sets share.
    extracted = importlib.import_module("etils.epath").Path(tmp_path / "extracted")
    monkeypatch.setattr("mlcroissant._src.operation_graph.operations.extract.EXTRACT_PATH", extracted)
    target, manifest = write_dataset(tmp_path / "set")
    write_card(target, manifest)
    with caplog.at_level(logging.WARNING):
        dataset = mlcroissant.Dataset(jsonld=str(tmp_path / "set" / "croissant.json"))
    assert not dataset.metadata.issues.errors
    warnings = dataset.metadata.issues.report()
    assert "datePublished" in warnings and warnings.count("recommended") == 1 and "not standard" not in caplog.text
    assert [row["classes/key"] for row in dataset.records("classes")] == ["n01", "n02"]
    pictures = list(dataset.records("pixels"))
    assert {row["pixels/image"].size for row in pictures} == {(24, 16)} and len(pictures) == 6
    described = json.loads((tmp_path / "set" / "croissant.json").read_text())
    digests = {entry["@id"]: entry.get("sha256") for entry in described["distribution"]}
    assert digests["000001.tar"] == shards.markers(target, target.sizes())[1]["sha256"]
    assert {field["name"] for field in described["recordSet"][1]["field"]} <= croissant.MEANINGS.keys()


@dataclass(frozen=True, kw_only=True)
class Config:
    engines: Path
    output: str
    prompt: str = "c"
    guidance: float = 7.5
    shuffle: bool = True
    fields: tuple[str, ...] = ()
    limit: int | None = None


def test_command_line():
    config = Config(engines=Path("a b"), output="out", prompt="c,h-inside-b", shuffle=False, fields=("x",))
    assert (
        card.command_line(config, "generate", leave_out=("output",))
        == "synthclone generate --engines 'a b' --prompt c,h-inside-b --no-shuffle --fields '[\"x\"]'"
    )
