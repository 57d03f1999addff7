"""A data set can be made again from its manifest alone: the same plan, the same options, the same bytes."""

import dataclasses
import json

import pytest
from support import run_command

from synthclone.gen import shards, storage
from synthclone.gen.config import GenerateConfig, make_plan
from synthclone.gen.generate import command as generate
from synthclone.gen.manifest import NOT_COMPARED, _flatten, config_of, describe, plan_of


@pytest.fixture
def files(tmp_path):
    """A class list, captions and scenes, to be deleted before the data set is made again."""
    (tmp_path / "own.yaml").write_text("- {name: mug, description: a cup, hypernym: vessel}\n- {name: spoon}\n")
    (tmp_path / "captions.tsv").write_text("mug\ta blue mug\nmug\ta red mug\nspoon\ta spoon\n")
    (tmp_path / "scenes.txt").write_text("attic\nbarn\nharbour\n")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        {"captions": True},
        {
            "template": "{c} in {b}",
            "backgrounds": True,
            "negative_prompt": "blur",
            "guidance_interval": "0.25:0.75",
            "solver": "unipc",
        },
        {"prompt": "c", "stored_size": 32, "quality": 80, "multiplier": 2, "batch": 3, "seed": 5},
    ],
    ids=["captions", "template", "stored"],
)
def test_manifest_and_back(files, pipeline, engines, words):
    named = {"captions": files / "captions.tsv", "backgrounds": str(files / "scenes.txt")}
    options = words | {name: path for name, path in named.items() if name in words}
    config = GenerateConfig(
        engines=engines,
        output="there",
        classes=str(files / "own.yaml"),
        per_class=3,
        shard_size=4,
        **options,
    )
    plan = make_plan(config)
    manifest = json.loads(json.dumps(describe(config, plan, pipeline, 8)))
    for path in files.iterdir():
        path.unlink()
    again = plan_of(manifest)
    assert again == plan
    assert again.images(range(plan.num_images)) == plan.images(range(plan.num_images))
    same = config_of(manifest, engines=engines, output="there")
    assert compared(describe(same, again, pipeline, 8)) == compared(manifest)


def compared(manifest):
    """What has to be the same in another run."""
    return {name: value for name, value in _flatten(manifest).items() if name not in NOT_COMPARED}


def test_every_option_that_decides_bytes_is_in_the_manifest(pipeline, engines):
    """A change of any option changes the manifest, but for where things lie and what computes them."""
    config = GenerateConfig(engines=engines, output="there", classes="digits", prompt="c,d", per_class=2)
    others = {"template": "{c}!", "lemmas": "first", "negative_prompt": "blur", "guidance": 3.0, "solver": "ddim"}
    others |= {"guidance_interval": "0:0.5", "steps": 9, "per_class": 3, "multiplier": 2, "seed": 1, "safety": "flag"}
    others |= {"stored_size": 16, "quality": 50, "shard_size": 3, "prompt": "c,h", "classes": "imagenet100"}
    # Without effect here: no class of the list has two parents, the template names no background, and the digits'
    # engines have one size. Captions and counts are in the class table, whose tests are above.
    free = {"engines", "output", "device", "hypernyms", "backgrounds", "height", "width", "captions", "counts_from"}
    free |= {"batch", "memory_limit", "safety_checker", "distributor", "workers", "retries", "profile"}
    assert {field.name for field in dataclasses.fields(config)} == free | set(others)
    manifest = compared(describe(config, make_plan(config), pipeline, 8))
    for name, value in others.items():
        changed = dataclasses.replace(config, **{name: value})
        assert compared(describe(changed, make_plan(changed), pipeline, 8)) != manifest, name


def test_stored_size_quality_and_solver_arrive_in_the_data_set(engines, tmp_path):
    import io

    from PIL import Image

    words = ["--engines", engines, "--classes", "digits", "--per-class", 1, "--steps", 2, "--solver", "unipc"]
    words += ["--stored-size", 24, "--quality", 60, "--device", "cpu", "--negative-prompt", "blur"]
    assert run_command(generate, *words, "--output", tmp_path / "set") == 0
    dataset = shards.read_dataset(tmp_path / "set")
    assert dataset.manifest["image_size"] == 24 and dataset.manifest["jpeg"]["quality"] == 60
    data = dataset.shards[0].tar.read_bytes()
    with Image.open(io.BytesIO(data[data.index(b"\xff\xd8") :])) as image:
        assert image.size == (24, 24)
        coarse = image.quantization
    assert coarse[0][0] > 4  # at quality 95 it is 2
    assert shards.read_manifest(storage.at(tmp_path / "set"))["sampling"]["negative_prompt"] == "blur"


def test_a_stored_size_over_the_generated_one_is_refused(engines, tmp_path, capsys):
    words = ["--engines", engines, "--classes", "digits", "--device", "cpu", "--stored-size", 65]
    assert run_command(generate, *words, "--output", tmp_path / "set") == 2
    assert "--stored-size 65 is over the 64x64 pixels" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_long_prompts_are_counted_and_listed(engines, tmp_path, capsys):
    (tmp_path / "own.yaml").write_text(f"- name: mug\n- {{name: bowl, key: bowl, description: '{'word ' * 90}'}}\n")
    words = [
        "--engines",
        engines,
        "--classes",
        tmp_path / "own.yaml",
        "--per-class",
        1,
        "--steps",
        2,
        "--device",
        "cpu",
    ]
    (tmp_path / "captions.tsv").write_text("mug\ta mug\nbowl\ta bowl " + "word " * 90 + "\n")
    words += ["--captions", tmp_path / "captions.tsv"]
    assert run_command(generate, *words, "--output", tmp_path / "set") == 0
    error = capsys.readouterr().err
    assert "warning: 1 prompt is longer than 77 tokens" in error
    assert "tokens: a bowl word word" in error and "a mug" not in error
