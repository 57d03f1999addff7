"""The stream of stages: order of nothing matters to the bytes, faults come out where one waits, images can be sent back."""

import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from synthclone.gen import jpeg, shards, storage, timeline
from synthclone.gen.classes import ClassEntry
from synthclone.gen.maker import BATCHES_IN_FLIGHT, ShardMaker, Verdict
from synthclone.gen.plan import Plan
from synthclone.gen.sampler import BadImageError, Batch


def make_plan(per_class=17, shard_size=10):
    entries = tuple(ClassEntry(key=key, name=key) for key in ("a", "b", "c"))
    return Plan(classes=entries, counts=(per_class,) * 3, template="{c}", seed=0, shard_size=shard_size)


@dataclass
class PlainSampler:
    """A sampler whose image is a pattern of the image's seed; it takes as long as it is told to."""

    batch: int = 8
    unet_s: float = 0.0
    decode_s: float = 0.0
    broken: int = -1
    sizes: list = None

    def prepare(self, planned):
        return Batch(planned=planned, start_BCHW=torch.zeros(0), text_RLD=torch.zeros(0))

    def latents(self, batch):
        if self.sizes is not None:
            self.sizes.append(len(batch.planned))
        time.sleep(self.unet_s)
        return batch.planned

    def decode(self, latents, planned):
        time.sleep(self.decode_s)
        assert [image.seed for image in latents] == [image.seed for image in planned]
        if any(image.index == self.broken for image in planned):
            raise BadImageError(f"image {self.broken} came out flat")
        pixels = [np.frombuffer(bytes.fromhex(image.seed) * 12, np.uint8).reshape(8, 8, 3) for image in planned]
        return torch.from_numpy(np.stack(pixels))


def make_sample(planned, image_HWC, fields):
    return shards.Sample(
        key=f"{planned.index:09d}",
        jpeg=jpeg.encode(image_HWC),
        fields={"label": planned.label, "seed": planned.seed, **fields},
    )


def make_maker(folder, sampler=None, **options):
    target = storage.at(folder)
    shards.write_manifest(target, {"classes": [{"key": "a"}, {"key": "b"}, {"key": "c"}]})
    return ShardMaker(
        plan=make_plan(),
        sampler=sampler or PlainSampler(),
        target=target,
        provenance=lambda samples: {},
        make_sample=make_sample,
        **options,
    )


def tars(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_batches_run_across_shards_and_only_the_last_is_short(tmp_path):
    sampler = PlainSampler(sizes=[])
    counted = []
    maker = make_maker(tmp_path, sampler, on_images=counted.append)
    assert sorted(maker.make(range(6))) == [0, 1, 2, 3, 4, 5]
    assert sampler.sizes == [8] * 6 + [3] == counted
    assert [shard.count for shard in shards.read_dataset(tmp_path).shards] == [10] * 5 + [1]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_bytes_depend_on_neither_batch_nor_order(tmp_path, batch):
    list(make_maker(tmp_path / "plain").make(range(6)))
    maker = make_maker(tmp_path / "other", PlainSampler(batch=batch))
    assert sorted([*maker.make([5, 2]), *maker.make([0, 4, 1, 3])]) == list(range(6))
    assert tars(tmp_path / "plain") == tars(tmp_path / "other")


def test_a_broken_image_stops_the_run_and_finished_shards_stay(tmp_path):
    done = []
    with pytest.raises(BadImageError, match="image 33 came out flat"):
        for number in make_maker(tmp_path, PlainSampler(broken=33, unet_s=0.01)).make(range(6)):
            done.append(number)
    assert done and 3 not in done
    assert set(done) <= shards.finished(storage.at(tmp_path))


def test_a_storage_that_fails_stops_the_run(tmp_path, monkeypatch):
    def fail(target, number, samples, provenance):
        raise OSError(28, "cannot write: no space")

    monkeypatch.setattr(shards, "write_shard", fail)
    with pytest.raises(OSError, match="no space"):
        list(make_maker(tmp_path).make(range(6)))


def test_threads_end_with_the_run(tmp_path):
    before = threading.active_count()
    stream = make_maker(tmp_path, PlainSampler(unet_s=0.01)).make(range(6))
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def test_the_decoder_is_off_the_critical_path_and_holds_back_a_unet_that_is_faster(tmp_path):
    recorded = timeline.Timeline(recording=True)
    sampler = PlainSampler(unet_s=0.05, decode_s=0.04)
    start_s = time.perf_counter()
    list(make_maker(tmp_path, sampler, timeline=recorded).make(range(6)))
    assert time.perf_counter() - start_s < 7 * 0.09 * 0.95  # one after the other would take 7 * 0.09 s
    ahead = []
    slow = PlainSampler(decode_s=0.03)
    maker = make_maker(tmp_path / "slow", slow)
    decode = slow.decode
    slow.latents = lambda batch: ahead.append(1) or batch.planned
    slow.decode = lambda *words: ahead.pop() and decode(*words)
    most = []
    maker.on_images = lambda count: most.append(len(ahead))
    list(maker.make(range(6)))
    assert max(most) <= BATCHES_IN_FLIGHT


def test_images_that_a_review_sends_back_are_made_from_other_seeds(tmp_path):
    looked_at = []

    def review(planned, attempts, images_BHWC):
        looked_at.extend(zip((image.index for image in planned), attempts, strict=True))
        return [
            Verdict(fields={"attempts": attempt + 1}, again=image.index % 5 == 0 and attempt < 2)
            for image, attempt in zip(planned, attempts, strict=True)
        ]

    list(make_maker(tmp_path / "plain").make(range(6)))
    assert sorted(make_maker(tmp_path / "other", review=review).make(range(6))) == list(range(6))
    assert {attempt for index, attempt in looked_at if index % 5 == 0} == {0, 1, 2}
    assert all(attempt == 0 for index, attempt in looked_at if index % 5)
    plain, other = (seeds_of(tmp_path / name) for name in ("plain", "other"))
    assert [key for key in plain if plain[key] != other[key]] == [f"{index:09d}" for index in range(0, 51, 5)]


def seeds_of(folder):
    import io
    import json
    import tarfile

    found = {}
    for data in tars(folder).values():
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    found[member.name[:-5]] = json.load(tar.extractfile(member))["seed"]
    return found
