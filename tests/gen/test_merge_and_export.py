"""`synthclone merge` and `synthclone export`: same JPEG bytes, right labels, resumed halfway, and read by their libraries."""

import hashlib
import json

import pytest
from support import MADE, make_samples, run_command

from synthclone.gen import export_dataset, shards, storage
from synthclone.gen.export_dataset import command as export
from synthclone.gen.merge import command as merge


def write(folder, keys=("k0", "k1"), first=0, sampling=None, name=None):
    """Two shards of six images, alternately of two classes."""
    target = storage.at(folder)
    classes = [{"key": key, "name": name or key, "label": i, "count": 6, "prompt": key} for i, key in enumerate(keys)]
    extra = {**MADE, "sampling": sampling} if sampling else {}
    shards.write_manifest(target, {"num_images": 12, "num_shards": 2, "image_size": 16, "classes": classes, **extra})
    for number in range(2):
        samples = [
            shards.Sample(key=s.key, jpeg=s.jpeg, fields={**s.fields, "class": keys[s.fields["label"]]})
            for s in make_samples(6, first + number * 6)
        ]
        shards.write_shard(target, number, samples, {})
    return folder


def samples_of(location):
    dataset = shards.read_dataset(location)
    return [sample for shard in dataset.shards for sample in shards.read_samples(dataset, shard)]


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def test_merge_ranks_labels_anew_and_keeps_the_jpegs(tmp_path):
    a, b = write(tmp_path / "a", ("m", "z")), write(tmp_path / "b", ("a", "m"), first=12)
    assert run_command(merge, a, b, "--output", tmp_path / "c") == 0
    merged = shards.read_dataset(tmp_path / "c")
    assert merged.class_keys == ["a", "m", "z"]
    assert [entry["count"] for entry in merged.manifest["classes"]] == [6, 12, 6]
    assert [source["location"] for source in merged.manifest["sources"]] == [str(a), str(b)]
    samples = samples_of(tmp_path / "c")
    assert [sample.jpeg for sample in samples] == [sample.jpeg for sample in samples_of(a) + samples_of(b)]
    assert [sample.key for sample in samples] == [f"{i:09d}" for i in range(24)]
    assert all(merged.class_keys[sample.fields["label"]] == sample.fields["class"] for sample in samples)
    assert samples[12].fields | {"source": 1, "source_key": "000000012", "index": 12} == samples[12].fields
    from synthclone.gen.verify import command as verify

    assert run_command(verify, tmp_path / "c") == 0
    before = digests(tmp_path / "c")
    (tmp_path / "c" / "000002.json").unlink()
    assert run_command(merge, a, b, "--output", tmp_path / "c") == 0
    assert digests(tmp_path / "c") == before


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"first": 12, "name": "other"}, "class k0 has name 'k0' in .* but 'other' in"),
        ({}, {}, "hold the same shard"),
        ({"sampling": {"seed": 1}}, {"first": 12, "sampling": {"seed": 1, "batch": 3}}, "same images of class k0"),
    ],
)
def test_what_cannot_be_merged(tmp_path, capsys, first, second, message):
    import re

    a, b = write(tmp_path / "a", **first), write(tmp_path / "b", **second)
    assert run_command(merge, a, b, "--output", tmp_path / "c") == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1 and not (tmp_path / "c").exists()


def test_an_unfinished_source_is_refused(tmp_path, capsys):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", first=12)
    (b / "000001.json").unlink()
    assert run_command(merge, a, b, "--output", tmp_path / "c") == 2
    assert "has 6 of its 12 images" in capsys.readouterr().err
    assert run_command(merge, a, "--output", tmp_path / "c") == 2
    assert "give two or more" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["imagefolder", "webdataset", "hf"])
def test_an_export_that_was_broken_off_is_completed(tmp_path, monkeypatch, form):
    source = write(tmp_path / "a")
    assert run_command(export, source, "--format", form, "--output", tmp_path / "whole") == 0
    real, calls = export_dataset.WRITERS[form], []

    def broken(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setitem(export_dataset.WRITERS, form, broken)
    assert run_command(export, source, "--format", form, "--output", tmp_path / "part") == 130
    assert run_command(export, source, "--format", form, "--output", tmp_path / "part") == 0
    assert len(calls) == 3  # the first shard is not written again
    whole, part = digests(tmp_path / "whole"), digests(tmp_path / "part")
    if form == "webdataset":  # its index bears the output's name
        assert whole.pop("shards.json") != part.pop("shards.json")
    assert whole == part


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
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    assert run_command(export, source, "--format", "hf", "--output", tmp_path / "full") == 2
    assert "is not empty" in capsys.readouterr().err
    assert run_command(export, source, "--format", "hf", "--output", source) == 2
