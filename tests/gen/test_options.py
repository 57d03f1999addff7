"""Backgrounds, captions, class counts, templates and the other options of a data set, good and bad."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from synthclone.gen import jpeg
from synthclone.gen.config import DatasetOptions, GenerateConfig, make_plan
from synthclone.gen.guidance import guided_steps, parse_interval
from synthclone.gen.resize import resize, stored_shape
from synthclone.gen.wording import load_backgrounds

CLASSES = "- {name: mug, description: a cup}\n- {name: spoon, description: cutlery}\n"


@pytest.fixture
def own(tmp_path):
    """Options of a data set of two classes; `own(**changes)`."""
    (tmp_path / "own.yaml").write_text(CLASSES)
    return lambda **changes: DatasetOptions(**({"classes": str(tmp_path / "own.yaml"), "per_class": 4} | changes))


def prompts(options, key):
    plan = make_plan(options)
    return [image.prompt for image in plan.images(range(plan.num_images)) if image.class_key == key]


def test_template_with_backgrounds_of_ones_own(own, tmp_path):
    (tmp_path / "scenes.txt").write_text("# two scenes\nattic\n\nharbour at night\n")
    found = prompts(own(template="a photo of {c}, {d}, in {b}", backgrounds=str(tmp_path / "scenes.txt")), "mug")
    assert sorted(found) == [
        "a photo of mug, a cup, in attic",
        "a photo of mug, a cup, in attic",
        "a photo of mug, a cup, in harbour at night",
        "a photo of mug, a cup, in harbour at night",
    ]


def test_captions_all_come_once_before_any_comes_twice(own, tmp_path):
    path = tmp_path / "captions.tsv"
    lines = [f"mug\tmug number {i}, {{c}}" for i in range(20)] + ["spoon\ta spoon"]
    path.write_text("\n".join(["# key and caption", *lines]))
    found = prompts(own(captions=path, per_class=40), "mug")
    plan = make_plan(own(captions=path, per_class=40))
    by_serial = [
        image.prompt
        for image in sorted(plan.images(range(80)), key=lambda image: image.serial)
        if image.class_key == "mug"
    ]
    assert sorted(by_serial[:20]) == sorted(by_serial[20:]) == sorted(plan.prompts_of(plan.classes[0]))
    assert by_serial[:20] != plan.prompts_of(plan.classes[0])  # an order of its own
    assert len(found) == 40 and prompts(own(captions=path, seed=1, per_class=40), "mug") != found
    assert set(prompts(own(captions=path), "spoon")) == {"a spoon"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mug\ta mug\nspon\ta spoon\n", r"line 2: unknown class 'spon'; did you mean spoon"),
        ("mug\ta mug\n", r"no caption for spoon"),
        ("mug a mug\n", r"line 1: 'mug a mug' is not CLASS-KEY<TAB>CAPTION"),
        ("mug\t\n", r"is not CLASS-KEY<TAB>CAPTION"),
        (None, r"cannot read captions .*captions.tsv"),
    ],
)
def test_bad_captions(own, tmp_path, text, message):
    path = tmp_path / "captions.tsv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        make_plan(own(captions=path))


def test_backgrounds_with_duplicates_are_named(tmp_path):
    path = tmp_path / "scenes.txt"
    path.write_text("attic\nharbour\nattic\nbarn\nbarn\n")
    with pytest.raises(ValueError, match=r"scenes.txt: backgrounds stand there more than once: attic, barn"):
        load_backgrounds(str(path))
    (tmp_path / "scenes.yaml").write_text("- {name: attic, key: one}\n- {name: attic, key: two}\n")
    with pytest.raises(ValueError, match=r"more than once: attic"):
        load_backgrounds(str(tmp_path / "scenes.yaml"))
    (tmp_path / "scenes.yaml").write_text("- attic\n- barn\n- attic\n")
    with pytest.raises(ValueError, match=r"scenes.yaml: backgrounds stand there more than once: attic; keep one of"):
        load_backgrounds(str(tmp_path / "scenes.yaml"))
    path.write_text("attic\nharbour\n", encoding="utf-8-sig")
    assert load_backgrounds(str(path)) == ("attic", "harbour")
    path.write_text("# none\n")
    with pytest.raises(ValueError, match="no backgrounds in it"):
        load_backgrounds(str(path))
    with pytest.raises(ValueError, match="cannot read backgrounds"):
        load_backgrounds(str(tmp_path / "nothing.txt"))
    with pytest.raises(ValueError, match="did you mean places365"):
        load_backgrounds("places356")


def real_tree(root, counts):
    for key, count in counts.items():
        (root / key / "deeper").mkdir(parents=True)
        for number in range(count):
            (root / key / ("deeper" if number % 2 else "") / f"{number}.JPEG").touch()
        (root / key / "notes.txt").touch()
    return root


def test_counts_of_a_real_data_set_with_its_imbalance(own, tmp_path):
    root = real_tree(tmp_path / "train", {"mug": 3, "spoon": 7, "fork": 2})
    assert make_plan(own(counts_from=root, per_class=None)).counts == (3, 7)
    assert make_plan(own(counts_from=root, per_class=None, multiplier=10)).counts == (30, 70)
    assert make_plan(own(per_class=None)).counts == (100, 100)


def test_a_counts_folder_without_some_classes_lists_them(own, tmp_path):
    root = real_tree(tmp_path / "train", {"mug": 3, "spoon": 0})
    with pytest.raises(ValueError, match=r"no image of 1 of 2 classes: spoon"):
        make_plan(own(counts_from=root, per_class=None))
    with pytest.raises(ValueError, match=r"nowhere is no folder"):
        make_plan(own(counts_from=tmp_path / "nowhere", per_class=None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts_from": "x"}, "--per-class 4 and --counts-from x both give class counts"),
        ({"multiplier": 0}, "--multiplier is 0"),
        ({"template": "{c}", "captions": "x"}, "--template and --captions both"),
        ({"template": "{name}"}, r"unknown field \{name\}"),
        ({"template": "a {h}"}, r"class 'mug' has no hypernym, which prompt a \{h\} needs"),
        ({"quality": 0}, "--quality is 0"),
        ({"quality": 101}, "--quality is 101"),
        ({"stored_size": -1}, "--stored-size is -1"),
        ({"negative_prompt": "blur", "guidance": 1.0}, "--negative-prompt does nothing without guidance"),
        ({"backgrounds": "imagenet100"}, r"--backgrounds imagenet100 does nothing .*; give --prompt c,h-inside-b or"),
        ({"backgrounds": "imagenet100", "template": "a {c}"}, "--backgrounds imagenet100 does nothing"),
        ({"steps": 0, "solver": "ddim"}, "--steps is 0, but solver ddim takes 1 or more"),
        ({"steps": 1}, "--steps is 1, but solver pndm takes 2 or more"),
        ({"guidance_interval": "0.5"}, "--guidance-interval is '0.5', but must be FROM:TO"),
        ({"guidance_interval": "0.8:0.2"}, "0 <= FROM < TO <= 1"),
        ({"guidance_interval": "0:nan"}, "0 <= FROM < TO <= 1"),
    ],
)
def test_bad_options(own, changes, message):
    with pytest.raises(ValueError, match=message):
        make_plan(own(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 4}, "--workers 4 does nothing with --distributor none"),
        ({"safety_checker": Path("x")}, "--safety-checker does nothing"),
        ({"memory_limit": 1.0, "batch": 2}, "both decide the batch"),
        ({"output": ""}, "--output is empty"),
        ({"output": " "}, "--output is empty"),
    ],
)
def test_bad_options_of_a_generation(changes, message):
    fine = {"classes": "digits", "engines": Path("engines"), "output": "set"}
    assert GenerateConfig(**fine, workers=4, distributor="local").workers == 4
    with pytest.raises(ValueError, match=message):
        GenerateConfig(**fine | changes)


def test_same_names_are_warned_of_only_where_nothing_else_tells_them_apart(tmp_path, capsys):
    (tmp_path / "cranes.txt").write_text("n02012849\nn03126707\n")
    options = DatasetOptions(classes=str(tmp_path / "cranes.txt"), template="a photo of {c}")
    make_plan(options)
    assert "share the name 'crane'" in capsys.readouterr().err
    make_plan(dataclasses.replace(options, template="{c}, {h}"))
    assert capsys.readouterr().err == ""


def test_guidance_intervals():
    assert guided_steps(parse_interval("0:1"), 51) == [True] * 51
    assert [i for i, guided in enumerate(guided_steps(parse_interval("0.2:0.8"), 50)) if guided] == list(range(10, 40))
    assert guided_steps(parse_interval("0:0.5"), 3) == [True, True, False]


def test_stored_size_is_the_shorter_side():
    image = np.random.default_rng(0).integers(0, 255, (96, 64, 3), dtype=np.uint8)
    assert resize(image, 0) is image and resize(image, 64) is image
    assert resize(image, 32).shape == (48, 32, 3)
    flat = np.full((96, 64, 3), 77, dtype=np.uint8)
    assert (resize(flat, 17) == 77).all() and resize(flat, 17).shape == (26, 17, 3)
    with pytest.raises(ValueError, match="--stored-size 65 is over the 96x64 pixels"):
        stored_shape(96, 64, 65)


def test_quality_decides_the_bytes():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert len(jpeg.encode(image, quality=30)) < len(jpeg.encode(image)) / 2
    assert jpeg.encode(image) == jpeg.encode(image, quality=95)
