"""Properties of the plan: a bijection with the right counts, and noise that depends on nothing but its key."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synthclone.gen.classes import ClassEntry
from synthclone.gen.noise import image_seed, initial_noise
from synthclone.gen.plan import Plan, _constants, _permute_one, permute
from synthclone.gen.prompts import TEMPLATES


def make_plan(counts, seed=0, shard_size=10, backgrounds=()):
    entries = tuple(ClassEntry(key=f"k{i:03d}", name=f"class {i}", hypernym="thing") for i in range(len(counts)))
    template = TEMPLATES["c,h-inside-b" if backgrounds else "c"]
    return Plan(
        classes=entries,
        counts=tuple(counts),
        template=template,
        backgrounds=tuple(backgrounds),
        seed=seed,
        shard_size=shard_size,
    )


@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_permutation_is_a_bijection(size, key):
    assert sorted(permute(np.arange(size, dtype=np.uint64), size, key).tolist()) == list(range(size))


def plain_permute(index, size, key):
    """The same Feistel network with Python's own integers."""
    half = max(1, (max(1, (size - 1).bit_length()) + 1) // 2)
    mask, word = (1 << half) - 1, 2**64 - 1
    while True:
        left, right = index >> half, index & mask
        for number in range(6):
            value = (right + key + number * 0x9E3779B97F4A7C15) & word
            value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & word
            value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & word
            left, right = right, left ^ ((value ^ (value >> 31)) & mask)
        index = left << half | right
        if index < size:
            return index


@given(size=st.integers(1, 2**40), key=st.integers(0, 2**64 - 1), data=st.data())
@settings(max_examples=100, deadline=None)
def test_compiled_permutation_equals_plain_python(size, key, data):
    index = data.draw(st.integers(0, size - 1))
    assert permute(np.array([index], dtype=np.uint64), size, key).tolist() == [plain_permute(index, size, key)]
    assert int(_permute_one(index, size, *_constants(size, key))) == plain_permute(index, size, key)


def test_the_order_of_a_data_set_never_changes():
    """Data sets on disk are completed by later versions: these values stand for ever."""
    assert [
        (image.label, image.serial) for image in make_plan([65_000] * 1000, shard_size=1000).images([0, 1, 64_999_999])
    ] == [
        (984, 64426),
        (582, 26689),
        (33, 63269),
    ]


def test_used_prompts_are_those_that_images_have():
    plan = make_plan([5, 30], backgrounds=[f"scene {i}" for i in range(11)])
    for label in range(2):
        used = {image.prompt for image in plan.images(range(35)) if image.label == label}
        assert sorted(plan.used_prompts(label)) == sorted(used)


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_image_once_with_the_counts_asked_for(counts, seed):
    plan = make_plan(counts, seed)
    images = [image for number in range(plan.num_shards) for image in plan.images(plan.shard_indices(number))]
    assert [image.index for image in images] == list(range(sum(counts)))
    assert len({(image.label, image.serial) for image in images}) == sum(counts)
    for label, count in enumerate(counts):
        assert sorted(image.serial for image in images if image.label == label) == list(range(count))


@given(index=st.integers(0, 65_000_000 - 1))
@settings(max_examples=50, deadline=None)
def test_any_image_of_65_million_without_the_others(index):
    plan = make_plan([65_000] * 1000, shard_size=1000)
    (image,) = plan.images([index])
    assert image == plan.images([0, index])[1]
    assert image.seed == image_seed(0, image.class_key, image.serial)


def test_classes_are_mixed_in_every_shard():
    plan = make_plan([100] * 10, shard_size=100)
    for number in range(plan.num_shards):
        labels = [image.label for image in plan.images(plan.shard_indices(number))]
        assert len(set(labels)) >= 9
        assert labels != sorted(labels)


def test_seed_changes_order_and_noise():
    one, other = (make_plan([50] * 4, seed).images(range(200)) for seed in (0, 1))
    assert [image.label for image in one] != [image.label for image in other]
    assert {image.seed for image in one}.isdisjoint(image.seed for image in other)


def test_backgrounds_all_come_once_before_any_comes_twice():
    scenes = [f"scene {i}" for i in range(7)]
    plan = make_plan([14, 7], backgrounds=scenes)
    prompts = [image.prompt for image in plan.images(range(21)) if image.label == 1]
    assert sorted(prompts) == sorted(f"class 1, thing inside {scene}" for scene in scenes)
    assert all(prompt in plan.prompts_of(plan.classes[1]) for prompt in prompts)


@given(cut=st.integers(1, 15))
@settings(max_examples=15, deadline=None)
def test_noise_does_not_depend_on_the_batch(cut):
    seeds = [image.seed for image in make_plan([16]).images(range(16))]
    whole = initial_noise(seeds, (4, 8, 8))
    parts = torch.cat([initial_noise(seeds[:cut], (4, 8, 8)), initial_noise(seeds[cut:], (4, 8, 8))])
    assert torch.equal(whole, parts)


def test_noise_does_not_depend_on_the_other_classes_or_the_rank():
    """The same class and serial number give the same noise in a plan of two classes and in one of ten."""
    small, large = make_plan([5] * 2), make_plan([9] * 10)
    seeds = {(image.class_key, image.serial): image.seed for image in large.images(range(90))}
    assert all(seeds[image.class_key, image.serial] == image.seed for image in small.images(range(10)))


def test_noise_is_standard_normal():
    noise = initial_noise([image_seed(0, "k", serial) for serial in range(300)], (4, 16, 16))
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert abs(float((noise[0] * noise[1]).mean())) < 0.1


@pytest.mark.parametrize(
    ("counts", "shard_size", "message"),
    [
        ([0, 0], 10, "at least one image"),
        ([5], 0, "shard size is 0"),
        ([2 * 10**20], 1000, "200,000,000,000,000,000,000 images are more than the 1,000,000,000,000"),
        ([10**6, 1], 1, "--shard-size 1 makes 1,000,001 shards, .*; give --shard-size 2 or more"),
    ],
)
def test_empty_and_boundless_plans_are_refused(counts, shard_size, message):
    with pytest.raises(ValueError, match=message):
        make_plan(counts, shard_size=shard_size)


def test_the_largest_plans():
    assert make_plan([10**6], shard_size=1).num_shards == 10**6  # the last one is 999999
    large = make_plan([10**12 - 5, 5], shard_size=10**6)
    assert {large.image(index).class_key for index in (0, 10**12 - 1)} <= {"k000", "k001"}
