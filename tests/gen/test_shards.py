"""Shards: deterministic bytes, DALI's own index, whole or absent."""

import dataclasses
import errno
import io
import json
import re
import tarfile

import pytest
from PIL import Image
from support import MADE

from synthclone.engines import files
from synthclone.gen import reading, shards, storage


def make_samples(count):
    samples = []
    for i in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (8 + i, 8), (10 * i, 0, 0)).save(buffer, "JPEG")
        samples.append(
            shards.Sample(
                key=f"{i:09d}", jpeg=buffer.getvalue(), fields={"label": i % 2, "class": f"k{i % 2}", "prompt": "é"}
            )
        )
    return samples


def write(folder, count=5, number=0):
    shards.write_manifest(storage.at(folder), {"num_images": count, "classes": [{"key": "k0"}, {"key": "k1"}]})
    shards.write_shard(storage.at(folder), number, make_samples(count), {"made_by": "test"})


def test_round_trip_and_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name)
    for end in ("tar", "idx", "json"):
        assert (tmp_path / "a" / f"000000.{end}").read_bytes() == (tmp_path / "b" / f"000000.{end}").read_bytes()
    dataset = shards.read_dataset(tmp_path / "a")
    assert dataset.class_keys == ["k0", "k1"] and dataset.num_images == 5
    assert dataset.shards[0].sha256 == files.sha256(dataset.shards[0].tar)
    with tarfile.open(dataset.shards[0].tar) as tar:
        assert [member.name for member in tar][:2] == ["000000000.jpg", "000000000.json"]


def test_index_points_at_the_members(tmp_path):
    """Line by line what DALI's wds2idx documents: extension, offset of the data, size, name."""
    write(tmp_path)
    data = (tmp_path / "000000.tar").read_bytes()
    first, *lines = (tmp_path / "000000.idx").read_text().splitlines()
    assert first == "v1.2 5" and len(lines) == 5
    for i, line in enumerate(lines):
        extension, offset, size, name, *rest = line.split()
        assert (extension, name) == ("jpg", f"{i:09d}.jpg")
        assert Image.open(io.BytesIO(data[int(offset) : int(offset) + int(size)])).size == (8 + i, 8)
        assert json.loads(data[int(rest[1]) : int(rest[1]) + int(rest[2])])["label"] == i % 2


def test_a_shard_without_its_marker_does_not_count(tmp_path):
    write(tmp_path, number=0)
    write(tmp_path, number=1)
    (tmp_path / "000001.json").unlink()
    assert len(shards.read_dataset(tmp_path).shards) == 1
    assert 0 in shards.finished(storage.at(tmp_path)) and 1 not in shards.finished(storage.at(tmp_path))


def test_a_truncated_tar_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "000000.tar").write_bytes(b"short")
    assert 0 not in shards.finished(storage.at(tmp_path))
    with pytest.raises(ValueError, match=r"000000.tar has 5 bytes instead of \d+"):
        shards.read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "is no data set"),
        (lambda folder: (folder / "dataset.json").write_text("{"), "dataset.json is damaged"),
        (lambda folder: (folder / "dataset.json").write_text('{"format": 7}'), "has format 7"),
        (lambda folder: shards.write_manifest(storage.at(folder), {"classes": []}), "has no finished shard"),
    ],
)
def test_what_is_no_data_set(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(ValueError, match=message):
        shards.read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "is no JSON object"),
        ({"classes": None}, "has classes None instead of a list"),
        ({"classes": ["k0"]}, "has an entry of classes that is no JSON object"),
        ({"classes": [{"name": "k0"}]}, "has an entry of classes that has no key"),
        ({"classes": [{"key": 3}]}, "has key 3 instead of a plain name"),
        *(
            ({"classes": [{"key": key}]}, "instead of a plain name")
            for key in ("../esc", "/a", "a\\b", "..", "", ".git")
        ),
        ({"classes": [{"key": "k0"}, {"key": "k0"}]}, "has class 'k0' more than once"),
        ({"num_shards": "2"}, "has num_shards '2' instead of a whole number"),
        ({"num_images": True}, "has num_images True instead of a whole number"),
        ({"image_size": [32]}, "has image_size [32] instead of a whole number, or a list of height and width"),
        ({"jpeg": {"digital_source_type": 1}}, "has a jpeg that has digital_source_type 1 instead of a string"),
        ({"safety_checker": {"sha256": "0"}}, "has a safety_checker that has no folder"),
        ({"sampling": []}, "has sampling [] instead of a JSON object"),
        ({"sampling": {"seed": 1}}, "has no name"),
        ({"sampling": {"template": "{c}"}, **MADE}, "has no num_shards"),
        (
            {"sampling": {"template": "{c}"}, **MADE, "num_shards": 1, "shard_size": 0},
            "instead of a whole number from 1",
        ),
        (
            {"sampling": {"template": "{c}"}, **MADE, "num_shards": 1, "shard_size": 5},
            "has a sampling that has no backgr",
        ),
        ({"sources": [{"num_shards": 1}]}, "has an entry of sources that has no num_images"),
        (
            {"sources": [{"num_shards": 1, "num_images": 5, "manifest": {}}]},
            "has an entry of sources that has no classes",
        ),
        (
            {"num_shards": 2, "sources": [{"num_shards": 1, "num_images": 5, "manifest": {"classes": []}}]},
            "has num_shards 2, which is not the sum over its sources",
        ),
    ],
)
def test_a_manifest_of_other_types_is_named(tmp_path, change, message):
    write(tmp_path)
    held = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(held | change if isinstance(change, dict) else change))
    with pytest.raises(
        ValueError, match=f"{re.escape(str(tmp_path))}/dataset.json is damaged: it .*; delete it"
    ) as caught:
        shards.read_manifest(storage.at(tmp_path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "5"}, "has count '5' instead of a whole number"),
        ({"bytes": -1}, "has bytes -1 instead of a whole number"),
        ({"sha256": 7}, "has sha256 7 instead of a digest"),
        ({"sha256": "../../elsewhere"}, "instead of a digest"),
    ],
)
def test_a_marker_of_other_types_is_named(tmp_path, change, message):
    write(tmp_path)
    held = json.loads((tmp_path / "000000.json").read_text())
    (tmp_path / "000000.json").write_text(json.dumps(held | change))
    with pytest.raises(ValueError, match=r"000000.json is damaged: it .*; delete it and run again") as caught:
        shards.read_dataset(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fields": {"label": 0}}, "sample '000000001' has no class"),
        ({"fields": {"label": "0", "class": "k0"}}, "sample '000000001' has label '0' instead of a whole number"),
        ({"fields": {"label": 0, "class": ["k0"]}}, "has class ['k0'] instead of a string"),
        ({"key": "a/b"}, "sample 'a/b' has a key that is not a plain name"),
        ({"key": ""}, "sample '' has a key that is not a plain name"),
    ],
)
def test_a_sample_of_other_types_is_named_by_both_readers(tmp_path, change, message):
    write(tmp_path)
    samples = make_samples(3)
    samples[1] = dataclasses.replace(samples[1], **change)
    shards.write_shard(storage.at(tmp_path), 0, samples, {})
    dataset = shards.read_dataset(tmp_path)
    for read in (lambda: shards.read_samples(dataset, dataset.shards[0]), lambda: reading.samples(dataset.storage, 0)):
        with pytest.raises(ValueError, match=r"000000\.tar") as caught:
            list(read())
        assert message in str(caught.value)


def test_a_sample_of_an_unlisted_class_and_one_without_json_are_named(tmp_path):
    write(tmp_path)
    samples = make_samples(3)
    samples[1] = dataclasses.replace(samples[1], fields={"label": 0, "class": "k7"})
    shards.write_shard(storage.at(tmp_path), 0, samples, {})
    dataset = shards.read_dataset(tmp_path)
    with pytest.raises(
        ValueError, match=r"000000\.tar: sample '000000001' has class 'k7', which is not in dataset.json"
    ):
        list(shards.read_samples(dataset, dataset.shards[0]))
    broken = shards.pack([("a", {"jpg": b"", "json": b"{"})])[0]
    with pytest.raises(ValueError, match=r"a\.json is no JSON"):
        list(shards.unpack(broken))


def test_full_disk_leaves_no_half_shard(tmp_path, monkeypatch):
    write(tmp_path, number=0)
    real, calls = files.os.fsync, []

    def full_at_the_second(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", full_at_the_second)
    with pytest.raises(OSError, match="free some space"):
        shards.write_shard(storage.at(tmp_path), 1, make_samples(3), {})
    assert 1 not in shards.finished(storage.at(tmp_path)) and len(shards.read_dataset(tmp_path).shards) == 1
    shards.write_shard(storage.at(tmp_path), 1, make_samples(3), {})
    assert 1 in shards.finished(storage.at(tmp_path))
