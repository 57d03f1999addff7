"""`synthclone plan`, and the presets: their comments say what the plan and the paper's table say."""

import csv
import dataclasses
import json
import re
import subprocess
import sys

import pytest
import yaml
from support import ROOT, run_command

from synthclone.gen import cost, tokens
from synthclone.gen.config import PRESETS, DatasetOptions, GenerateConfig, make_plan
from synthclone.gen.plan_report import PlanConfig, command
from synthclone.gen.write_prompts import command as write_prompts

TABLE = list(csv.DictReader((ROOT / "gen" / "data" / "paper_table1.csv").open()))
PRESET_NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
LETTERS = {"c": "c", "c,h": "c, h", "c,d": "c, d", "c,h-inside-b": "c, h inside b"}


def planned(capsys, *words):
    assert run_command(command, *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def row_of(options):
    classes = {"imagenet100": "in100", "imagenet1k": "in1k"}[options.classes]
    wanted = (classes, "sd", str(options.multiplier), str(options.guidance), LETTERS[options.prompt])
    (row,) = [
        row
        for row in TABLE
        if (row["classes"], row["train_set"], row["scale_factor"] or "1", row["guidance"], row["prompt"]) == wanted
    ]
    return row


def test_every_synthetic_row_of_the_table_has_a_preset():
    rows = [row_of(DatasetOptions(**yaml.safe_load((PRESETS / f"{name}.yaml").read_text()))) for name in PRESET_NAMES]
    synthetic = [row for row in TABLE if row["train_set"] == "sd"]
    assert sorted(map(str, rows)) == sorted(map(str, synthetic))


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_comments_of_presets_are_true(name):
    text = (PRESETS / f"{name}.yaml").read_text()
    options = DatasetOptions(**yaml.safe_load(text))
    comment = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
    row = row_of(options)
    num_images = options.per_class * options.multiplier * {"imagenet100": 100, "imagenet1k": 1000}[options.classes]
    image_tflop = cost.image_tflop(options, cost.STABLE_DIFFUSION_1)
    assert comment.startswith(f"synthclone generate --preset {name} ")
    assert f": {num_images:,} images." in comment
    assert f"Costs {num_images * image_tflop:,.0f} TFLOP ({image_tflop:.1f} an image: " in comment
    assert f"{cost.unet_calls(options)} U-Net calls" in comment
    assert f"at 200 TFLOP/s sustained on a GPU: {num_images * image_tflop / 200 / 3600:,.0f} GPU-hours" in comment
    assert f"The paper got {row['val_top1']} % top-1 and {row['val_top5']} % top-5" in comment
    assert options.guidance_interval == "0:1" and options.solver == "pndm" and options.steps == 50


def test_the_cost_of_an_image():
    fifty = DatasetOptions(classes="digits", solver="ddim", steps=50)
    assert cost.image_tflop(fifty, cost.STABLE_DIFFUSION_1) == pytest.approx(82.8, abs=0.05)
    assert cost.unet_rows(fifty) == 100
    assert cost.unet_rows(DatasetOptions(classes="digits", steps=50)) == 102
    assert cost.unet_rows(DatasetOptions(classes="digits", solver="ddim", guidance=1)) == 50
    assert cost.unet_rows(DatasetOptions(classes="digits", solver="ddim", guidance_interval="0.2:0.8")) == 80


def test_options_override_a_preset(capsys):
    found = planned(capsys, "--preset", "in100-chb-g7.5", "--per-class", 3, "--tflops-per-s", 100)
    assert found["images"] == 300 and found["classes"] == 100 and found["unet_rows"] == 300 * 102
    assert found["distinct_prompts"] == 300  # three of 365 scenes each
    assert all(" inside " in prompt for prompt in found["sample_prompts"])
    assert found["gpu_hours"] == pytest.approx(found["tflop"] / 100 / 3600)
    assert found["tflop"] == pytest.approx(300 * (102 * 0.803 + 2.515) + 300 * 0.013)
    faster = planned(capsys, "--preset", "in100-c-g2.0", "--images-per-s", 2)
    assert faster["gpu_hours"] == 126_700 / 2 / 3600
    other = planned(capsys, "--preset", "in100-c-g2.0", "--height", 768)
    assert other["tflop"] is None and other["stored_height_width"] == [768, 512]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preset", "in100-cd-g2"), "unknown preset 'in100-cd-g2'; valid presets: .*did you mean in100-cd-g2.0 or"),
        (("--preset", "../configs/in100-c-g2.0"), "unknown preset"),
        (("--classes", "digits", "--images-per-s", "-1"), "--images-per-s is -1"),
        (("--classes", "digits", "--lemmas", "some"), "'some' is none of all | first"),
        (("--classes", "digits", "--steps", "0"), "--steps is 0"),
        (("--classes", "digits", "--steps", "99999"), "--steps is 99999, but solver pndm takes 2 to 999"),
        (("--classes", "digits", "--workers", "2"), "--workers 2 does nothing"),
        (("--classes", "digits", "--per-class", "2" + 20 * "0"), "more than the 1,000,000,000,000"),
        (("--preset", "in100-c-g2.0", "--counts-from", "x"), "--per-class null takes back the one of a preset"),
        ((), "classes"),
    ],
)
def test_bad_input(capsys, words, message):
    assert run_command(command, *words) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


def test_every_option_of_a_generation_is_taken(capsys):
    words = "--distributor local --workers 8 --safety flag --safety-checker DIR --retries 5 --output s3://bucket/set"
    assert planned(capsys, "--classes", "digits", *words.split(), "--memory-limit", 20)["images"] == 1000
    assert planned(capsys, "--classes", "digits", "--profile", "trace.json")["images"] == 1000
    assert option_names(GenerateConfig) <= option_names(PlanConfig)


def option_names(config):
    return {field.name for field in dataclasses.fields(config)}


def test_the_engines_scheduler_bounds_the_steps(engines, capsys):
    words = ("--engines", engines, "--classes", "digits", "--solver", "ddim", "--per-class", 1)
    assert run_command(command, *words, "--steps", 1000) == 2
    assert "takes 1 to 999 with this checkpoint's scheduler" in capsys.readouterr().err
    assert planned(capsys, *words, "--steps", 999)["unet_calls_per_image"] == 999


def test_prompts_are_the_first_that_a_generation_asks_for(capsys, tmp_path):
    (tmp_path / "scenes.txt").write_text("attic\nbarn\nharbour\n")
    options = {"classes": "imagenet100", "template": "{c} in {b}", "backgrounds": str(tmp_path / "scenes.txt")}
    options |= {"lemmas": "first", "seed": 3}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    words += ["--count", 9, "--output", tmp_path / "p.txt"]
    assert run_command(write_prompts, *words, "--per-class", 7) == 0
    plan = make_plan(DatasetOptions(**options, per_class=7))
    expected = [image.prompt for image in plan.images(plan.shard_indices(0)[:9])]
    assert (tmp_path / "p.txt").read_text().splitlines() == expected
    for bad, message in (
        (("--count", 101, "--per-class", 1), "--count is 101, but the data set has 100 images"),
        (("--output", ""), "must be the path of a text file"),
    ):
        assert run_command(write_prompts, *words, *bad) == 2
        assert message in capsys.readouterr().err


def test_with_engines_tokens_and_work_are_counted(engines, capsys, tmp_path):
    (tmp_path / "own.yaml").write_text(f"- name: mug\n- name: bowl\n  description: {'word ' * 90}\n")
    (tmp_path / "captions.tsv").write_text(f"mug\ta mug\nbowl\t{'word ' * 90}\n")
    words = ["--engines", engines, "--classes", tmp_path / "own.yaml", "--captions", tmp_path / "captions.tsv"]
    found = planned(capsys, *words, "--per-class", 5)
    assert found["tokens_counted"] and [count > 77 for _, count in found["long_prompts"]] == [True]
    assert found["stored_height_width"] == [64, 64] and 0 < found["model"]["unet_tflop"] < 0.01
    expected = 10 * (102 * found["model"]["unet_tflop"] + found["model"]["vae_decoder_tflop"])
    assert found["tflop"] == pytest.approx(expected + 2 * found["model"]["text_encoder_tflop"])
    assert run_command(command, *words, "--per-class", 5) == 0
    text = capsys.readouterr().out
    assert "10 of 2 classes, 5 each" in text and "1 prompt is longer than 77 tokens" in text


def test_without_a_tokenizer_tokens_are_bounded_from_below(pipeline):
    texts = ["it's 2,000 m high!?", "a photo of a small_slender toy-spaniel (dog)", "naïve café", "word " * 90, ""]
    at_least, counted = dict(tokens.lengths(texts, None)), dict(tokens.lengths(texts, pipeline.tokenizer))
    assert all(at_least[text] <= counted[text] for text in texts)
    assert at_least["word " * 90] == 92 and at_least[""] == 2


def test_65_million_images_plan_in_under_200_megabytes():
    code = (
        "import re, sys; from pathlib import Path; from synthclone.cli import main\n"
        "words = 'plan --preset in1k-chb-g7.5 --multiplier 51 --tflops-per-s 200 --json'.split()\n"
        "code = main(words)\n"  # not getrusage: its maximum begins with that of the process that forked this one
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024 / 1e6)\n"
        "assert not {'torch', 'nltk'} & set(sys.modules); raise SystemExit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report, megabytes = result.stdout.splitlines()
    assert json.loads(report)["images"] == 65_331_000 and json.loads(report)["distinct_prompts"] == 365_000
    assert float(megabytes) < 200
