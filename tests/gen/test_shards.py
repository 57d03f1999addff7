"""Shards: deterministic bytes, DALI's own index, whole or absent."""

import errno
import io
import json
import tarfile

import pytest
from PIL import Image

from synthclone.engines import files
from synthclone.gen import shards, storage


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
