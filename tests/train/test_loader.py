"""The loader: labels, epochs, ranks; and bad samples, named and left out."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthclone.train.crops import IMAGENET_MEAN, IMAGENET_STD, CropPolicy
from synthclone.train.quarantine import quarantine_rows
from synthclone.train.shard_index import Member, format_index, read_index

POLICY = CropPolicy(global_size=16, num_local=1, local_size=8, flip=False, colour="none")
LABELS = [i * 7 % 10 for i in range(40)]


def seen(loader, epoch: int, num_steps: int) -> list[int]:
    """The labels of an epoch, each checked against its image's own grey (20 times the label)."""
    labels = []
    for batch in loader.batches(epoch, num_steps):
        for crops_MCHW in batch.crops:
            grey_M = (crops_MCHW[:, 0].mean((1, 2)) * IMAGENET_STD[0] + IMAGENET_MEAN[0]) * 255
            assert torch.equal((grey_M / 20).round().long(), batch.labels_B.repeat(len(grey_M) // len(batch.labels_B)))
        labels += batch.labels_B.tolist()
    return labels


@pytest.fixture
def folder(shards, tmp_path):
    return shards.write(tmp_path / "set", shards.flat(LABELS), LABELS, per_shard=10)


def test_an_epoch_shows_every_image_once_with_its_label(folder, shards, tmp_path) -> None:
    loader = shards.loader(folder, tmp_path, POLICY)
    assert (loader.num_images(), loader.num_steps()) == (40, 5)
    first, second = seen(loader, 0, 5), seen(loader, 1, 5)
    assert sorted(first) == sorted(second) == sorted(LABELS)
    assert first != second


def test_an_epoch_is_a_function_of_seed_epoch_and_rank(folder, shards, tmp_path) -> None:
    runs = {
        name: torch.cat([b.crops[1] for b in shards.loader(folder, tmp_path, POLICY, seed=seed).batches(epoch, 2)])
        for name, seed, epoch in (("one", 0, 3), ("again", 0, 3), ("other seed", 1, 3), ("other epoch", 0, 4))
    }
    assert torch.equal(runs["one"], runs["again"])
    assert not torch.equal(runs["one"], runs["other seed"])
    assert not torch.equal(runs["one"], runs["other epoch"])


@pytest.mark.parametrize("per_shard", [10, 40])
def test_two_ranks_share_the_images(per_shard, shards, tmp_path) -> None:
    labels = [i // 4 for i in range(40)]
    folder = shards.write(tmp_path / "set", shards.flat(labels), labels, per_shard=per_shard)
    loaders = [shards.loader(folder, tmp_path, POLICY, rank=r, world_size=2, batch_size=5) for r in range(2)]
    assert [loader.num_images() for loader in loaders] == [20, 20]
    halves = [seen(loader, 0, 4) for loader in loaders]
    assert sorted(halves[0] + halves[1]) == labels
    assert sorted(halves[0]) != sorted(halves[1])


def test_last_partial_batch_is_dropped_and_a_longer_epoch_starts_over(folder, shards, tmp_path) -> None:
    loader = shards.loader(folder, tmp_path, POLICY, batch_size=16)
    assert loader.num_steps() == 2
    assert len(seen(loader, 0, 5)) == 80


def test_too_few_images_for_a_batch_is_an_error(folder, shards, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"40 readable images for rank 0, less than one batch of 64"):
        next(shards.loader(folder, tmp_path, POLICY, batch_size=64).batches(0, 1))


def test_a_label_out_of_range_is_an_error(shards, tmp_path) -> None:
    folder = shards.write(tmp_path / "set", shards.flat([0] * 8), [12] * 8, per_shard=8)
    with pytest.raises(ValueError, match=r"label 12; dataset.json lists 10 classes"):
        next(shards.loader(folder, tmp_path, POLICY).batches(0, 1))


def test_corrupt_and_empty_images_are_named_left_out_and_counted(shards, tmp_path, capfd) -> None:
    jpegs = shards.flat(LABELS)
    noise_HWC = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    jpegs[3], jpegs[17], jpegs[31] = b"", b"this is no image at all", shards.jpeg(noise_HWC)[:700]
    folder = shards.write(tmp_path / "set", jpegs, LABELS, per_shard=10)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    run = tmp_path / "run"
    loader = shards.loader(folder, run, POLICY, batch_size=4)
    assert len(seen(loader, 0, 10)) == 40

    assert {(row["shard"][-10:], row["key"]) for row in quarantine_rows(run)} == {
        ("000000.tar", "00000003.jpg"),
        ("000001.tar", "00000017.jpg"),
        ("000003.tar", "00000031.jpg"),
    }
    assert json.loads((run / "quarantine.json").read_text())["num_images"] == 3
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 3
    assert "00000003.jpg is left out: the file is empty" in lines[0]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before

    assert loader.num_images() == 37
    good = [label for i, label in enumerate(LABELS) if i not in (3, 17, 31)]
    again = shards.loader(folder, run, POLICY, batch_size=37)
    assert sorted(seen(again, 1, 1)) == sorted(good)
    assert "warning" not in capfd.readouterr().err  # known, not found again


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**6)), max_size=20))
def test_an_index_is_read_as_it_was_written(tmp_path_factory, rows) -> None:
    samples = [
        {ext: Member(name=f"{i}.{ext}", offset_bytes=o, size_bytes=s) for ext in ("jpg", "json")}
        for i, (o, s) in enumerate(rows)
    ]
    file = tmp_path_factory.mktemp("index") / "000000.idx"
    file.write_text(format_index(samples))
    assert read_index(file) == samples


def test_a_damaged_index_is_an_error(tmp_path) -> None:
    (tmp_path / "000000.idx").write_text("v1.2 2\njpg 512 10 a.jpg json 1536 5 a.json\n")
    with pytest.raises(ValueError, match=r"000000.idx is no DALI index v1.2 .* 1 samples follow"):
        read_index(tmp_path / "000000.idx")
