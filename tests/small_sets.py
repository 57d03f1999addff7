"""Data sets of two small shards, and what is in them."""

import hashlib

from support import MADE, make_samples

from synthclone.gen import shards, storage


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
