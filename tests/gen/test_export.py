"""`synthclone export`: same JPEG bytes, right labels, resumed halfway, and read by their libraries."""

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from small_sets import digests, samples_of, write
from support import make_samples, run_command

from synthclone.engines import files
from synthclone.gen import card, export_card, export_dataset, shards, storage
from synthclone.gen.export_dataset import command as export
from synthclone.gen.merge import command as merge

FORMS = pytest.mark.parametrize("form", ["imagefolder", "webdataset", "hf"])


@pytest.fixture
def laid_out(monkeypatch):
    """Numbers of the shards that are laid out, for every format."""
    numbers = []
    for form, real in list(export_dataset.LAYOUTS.items()):
        monkeypatch.setitem(
            export_dataset.LAYOUTS, form, lambda *given, real=real: numbers.append(given[0]) or real(*given)
        )
    return numbers


def same(whole, part):
    """Whether two exports are alike; an index of shards bears the output's name."""
    whole, part = digests(whole), digests(part)
    return (whole.pop("shards.json", None) is None) == (part.pop("shards.json", None) is None) and whole == part


@FORMS
def test_an_export_that_was_broken_off_is_completed(tmp_path, monkeypatch, laid_out, form):
    source = write(tmp_path / "a")
    assert run_command(export, source, "--format", form, "--output", tmp_path / "whole") == 0
    real = export_dataset.LAYOUTS[form]

    def broken(number, samples):
        if number == 1:
            raise KeyboardInterrupt
        return real(number, samples)

    laid_out.clear()
    with monkeypatch.context() as patch:
        patch.setitem(export_dataset.LAYOUTS, form, broken)
        assert run_command(export, source, "--format", form, "--output", tmp_path / "part") == 130
    dead = f".000000009.jpg.{files.host()}-{ended_process()}-0.part"
    folder = {"imagefolder": "k1", "webdataset": ".", "hf": "train/000001"}[form]
    (tmp_path / "part" / folder).mkdir(exist_ok=True)
    (tmp_path / "part" / folder / dead).write_bytes(b"half")
    assert run_command(export, source, "--format", form, "--output", tmp_path / "part") == 0
    assert laid_out == [0, 1]  # the first shard is not written again
    assert same(tmp_path / "whole", tmp_path / "part")


def ended_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@FORMS
def test_files_that_are_missing_or_cut_short_are_written_again(tmp_path, laid_out, form):
    source = write(tmp_path / "a")
    for name in ("whole", "part"):
        assert run_command(export, source, "--format", form, "--output", tmp_path / name) == 0
    lost = {"imagefolder": "k1/000000009.jpg", "webdataset": "000001.tar", "hf": "train/000001/metadata.jsonl"}[form]
    for damage in (Path.unlink, lambda path: path.write_bytes(b"short")):
        laid_out.clear()
        damage(tmp_path / "part" / lost)
        assert run_command(export, source, "--format", form, "--output", tmp_path / "part") == 0
        assert laid_out == [1] and same(tmp_path / "whole", tmp_path / "part")
    for text in ("{}", "[]", "{"):
        laid_out.clear()
        (tmp_path / "part" / ".export-000000.json").write_text(text)
        assert run_command(export, source, "--format", form, "--output", tmp_path / "part") == 0
        assert laid_out == [0] and same(tmp_path / "whole", tmp_path / "part")


def test_an_export_to_an_object_store_is_completed(tmp_path, laid_out):
    source, url = write(tmp_path / "a"), f"memory://exports/{tmp_path.name}"
    assert run_command(export, source, "--format", "imagefolder", "--output", url) == 0
    storage.at(f"{url}/k0").remove("000000000.jpg")
    assert run_command(export, source, "--format", "imagefolder", "--output", url) == 0
    assert laid_out == [0, 1, 0] and len(storage.at(f"{url}/k0").sizes()) == 6


def test_what_an_export_has_done_takes_room_in_proportion(tmp_path, monkeypatch):
    """State that is written whole after each shard would grow with its square."""
    written, real = [], storage.Storage.write_json
    monkeypatch.setattr(
        storage.Storage,
        "write_json",
        lambda self, name, value: written.append(len(json.dumps(value))) or real(self, name, value),
    )
    target = storage.at(tmp_path / "a")
    shards.write_manifest(target, {"classes": [{"key": "k0"}, {"key": "k1"}]})
    for number in range(40):
        shards.write_shard(target, number, make_samples(1, number), {})
    written.clear()
    assert run_command(export, tmp_path / "a", "--format", "imagefolder", "--output", tmp_path / "x") == 0
    assert len(written) == 41 and max(written[1:]) < 1.2 * min(written[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"fields": {"label": 0, "class": "../../esc"}},
            r"000001\.tar: sample '000000006' has class '../../esc', which is",
        ),
        ({"key": "../x"}, r"000001\.tar: \.\./x\.jpg stands where KEY\.jpg"),
        ({"key": "a/b"}, r"000001\.tar: sample 'a/b' has a key that is not a plain name"),
    ],
)
def test_nothing_is_written_outside_the_output(tmp_path, capsys, change, message):
    source = write(tmp_path / "a")
    samples = make_samples(6, 6)
    samples[0] = dataclasses.replace(samples[0], **change)
    shards.write_shard(storage.at(source), 1, samples, {})
    output = tmp_path / "deep" / "er" / "x"
    assert run_command(export, source, "--format", "imagefolder", "--output", output) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "deep"}
    assert {path.name for path in output.parent.iterdir()} == {"x"}


def test_a_class_key_that_is_a_path_and_an_unfinished_set_are_refused(tmp_path, capsys):
    source = write(tmp_path / "a", ("../esc", "k1"))
    assert run_command(export, source, "--format", "imagefolder", "--output", tmp_path / "x") == 2
    assert "has key '../esc' instead of a plain name" in capsys.readouterr().err
    source = write(tmp_path / "b")
    (source / "000001.json").unlink()
    assert run_command(export, source, "--format", "imagefolder", "--output", tmp_path / "x") == 2
    assert "has 6 of its 12 images" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_the_hub_takes_so_many_files_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(export_dataset, "HUB_IMAGES", 4)
    source = write(tmp_path / "a")
    assert run_command(export, source, "--format", "hf", "--output", tmp_path / "hf") == 0
    counts = {path.name: len(list(path.iterdir())) for path in (tmp_path / "hf" / "train").iterdir()}
    assert counts == {"000000": 5, "000000-1": 3, "000001": 5, "000001-1": 3}
    rows = (tmp_path / "hf" / "train" / "000001-1" / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(row)["file_name"] for row in rows] == ["000000010.jpg", "000000011.jpg"]


CARD = """---
license: other
tags:
- synthetic
- webdataset
configs:
- config_name: default
  data_files:
  - split: train
    path: '*.tar'
---

# Cranes

## What is in it

- `NNNNNN.tar`: shards in WebDataset form.
  And more of it.
- `croissant.json`: Croissant 1.0.

There is one split, `train`.

## Bias

Labels are wishes.
"""


def test_the_card_goes_to_the_hub_with_the_images(tmp_path):
    source = write(tmp_path / "a")
    (source / "README.md").write_text(CARD)
    assert run_command(export, source, "--format", "hf", "--output", tmp_path / "hf") == 0
    _, header, body = (tmp_path / "hf" / "README.md").read_text().split("---\n", 2)
    header = yaml.safe_load(header)
    assert header["license"] == "other" and header["tags"] == ["synthetic", "imagefolder"]
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "train/**"}]
    info = header["dataset_info"]
    rows = [json.loads(row) for row in (tmp_path / "hf/train/000000/metadata.jsonl").read_text().splitlines()]
    assert [feature["name"] for feature in info["features"]] == ["image", *list(rows[0])[1:]]
    assert info["features"][1] == {"name": "label", "dtype": "int64"}
    size = sum(path.stat().st_size for path in (tmp_path / "hf" / "train").rglob("*.*"))
    assert info["splits"] == [{"name": "train", "num_bytes": size, "num_examples": 12}]
    assert "WebDataset" not in body and "croissant" not in body and "- `train/NNNNNN/metadata.jsonl`" in body
    assert "\n\nThere is one split, `train`.\n\n## Bias\n\nLabels are wishes.\n" in body
    assert (tmp_path / "hf" / "dataset.json").read_bytes() == (source / "dataset.json").read_bytes()


def test_the_card_lists_the_fields_of_every_merged_set(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", first=12)
    for number in range(2):
        target, samples = storage.at(b), make_samples(6, 12 + 6 * number)
        flagged = [dataclasses.replace(sample, fields=sample.fields | {"flagged": False}) for sample in samples]
        shards.write_shard(target, number, flagged, {})
    assert run_command(merge, a, b, "--output", tmp_path / "c") == 0
    (tmp_path / "c" / "README.md").write_text(CARD)
    assert run_command(export, tmp_path / "c", "--format", "hf", "--output", tmp_path / "hf") == 0
    info = yaml.safe_load((tmp_path / "hf" / "README.md").read_text().split("---\n")[1])["dataset_info"]
    assert {"name": "flagged", "dtype": "bool"} in info["features"]
    assert {"name": "source_key", "dtype": "string"} in info["features"]


def test_a_card_without_front_matter_and_one_with_a_bad_one(tmp_path, capsys):
    source = write(tmp_path / "a")
    (source / "README.md").write_text("# Mine\n")
    assert run_command(export, source, "--format", "hf", "--output", tmp_path / "hf") == 0
    assert (tmp_path / "hf" / "README.md").read_text().endswith("---\n# Mine\n")
    for text, message in (("---\na: [\n---\n", "that is no YAML"), ("---\n- a\n---\n", "that is no mapping")):
        (source / "README.md").write_text(text)
        assert run_command(export, source, "--format", "hf", "--output", tmp_path / "hf") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{source}/README.md has a front matter {message}" in error


def test_the_card_that_generation_writes_loses_its_tars(tmp_path):
    """The list of files in `data/card.md` is found."""
    text = export_card.adapted(card.TEXT.read_text(encoding="utf-8"), {"label": 1}, 3, 4, "README.md")
    assert "NNNNNN.tar" not in text and export_card.FILES in text and "## How it was made" in text


def test_imagefolder_and_hf_hold_every_jpeg(tmp_path):
    source = write(tmp_path / "a")
    samples = samples_of(source)
    for form in ("imagefolder", "hf"):
        assert run_command(export, source, "--format", form, "--output", tmp_path / form) == 0
    for i, sample in enumerate(samples):
        assert (tmp_path / "imagefolder" / sample.fields["class"] / f"{sample.key}.jpg").read_bytes() == sample.jpeg
        folder = tmp_path / "hf" / "train" / f"{i // 6:06d}"
        rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        assert rows[i % 6] == {"file_name": f"{sample.key}.jpg", **sample.fields}
        assert (folder / rows[i % 6]["file_name"]).read_bytes() == sample.jpeg
    assert {path.name for path in (tmp_path / "imagefolder").iterdir() if path.is_dir()} == {"k0", "k1"}


def test_the_webdataset_library_reads_the_export(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    source = write(tmp_path / "a")
    assert run_command(export, source, "--format", "webdataset", "--output", tmp_path / "w") == 0
    index = json.loads((tmp_path / "w" / "shards.json").read_text())
    assert index["__kind__"] == "wids-shard-index-v1" and sum(row["nsamples"] for row in index["shardlist"]) == 12
    urls = [str(tmp_path / "w" / row["url"]) for row in index["shardlist"]]
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    expected = samples_of(source)
    assert [row["jpg"] for row in read] == [sample.jpeg for sample in expected]
    assert [int(row["cls"]) for row in read] == [sample.fields["label"] for sample in expected]
    assert [json.loads(row["json"]) for row in read] == [dict(sample.fields) for sample in expected]


def test_an_export_does_not_mix_with_another(tmp_path, capsys):
    source = write(tmp_path / "a")
    assert run_command(export, source, "--format", "hf", "--output", tmp_path / "x") == 0
    assert run_command(export, source, "--format", "webdataset", "--output", tmp_path / "x") == 2
    assert "its format is 'hf', not 'webdataset'" in capsys.readouterr().err
    (tmp_path / "x" / ".export.json").write_text("[]")
    assert run_command(export, source, "--format", "hf", "--output", tmp_path / "x") == 2
    assert ".export.json is damaged: it is no JSON object" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    (tmp_path / "folders" / "photographs").mkdir(parents=True)
    for name in ("full", "folders"):
        assert run_command(export, source, "--format", "hf", "--output", tmp_path / name) == 2
        assert "is not empty" in capsys.readouterr().err
    assert run_command(export, source, "--format", "hf", "--output", source) == 2
    (tmp_path / "claimed").mkdir()
    (tmp_path / "claimed" / "..export.json.host-1-0.part").write_bytes(b"")  # a claim that was killed
    assert run_command(export, source, "--format", "hf", "--output", tmp_path / "claimed") == 0
