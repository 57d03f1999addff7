"""The README's commands: every one parses, and those of the laptop section run, in order, with less work asked of them."""

import re
import shlex
import subprocess
import sys

from support import ROOT

from synthclone.cli import VERBS
from synthclone.engines.command import make_parser

README = (ROOT / "README.md").read_text()
LESS = {"--per-class 100": "--per-class 4", "--steps 20": "--steps 2", "1:8:32": "1:4:8"}
LESS |= {"train/digits.yaml": "train/digits.yaml --arch resnet18 --epochs 1 --warmup-epochs 0 --batch-size 16"}


def commands(section: str) -> list[str]:
    """The lines of the shell blocks in a part of the README."""
    return [line for block in re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL) for line in block.splitlines()]


def test_every_command_line_parses():
    checked = 0
    for line in commands(README):
        words = shlex.split(line)
        if words[0] == "deepspeed":
            words = ["synthclone", "train", *words[words.index("train/train.py") + 1 :]]
        if words[0] == "synthclone":
            config = __import__(VERBS[words[1]][0], fromlist=["command"])
            found = [value for name, value in vars(config).items() if name.endswith("Config")]
            (config_class,) = [value for value in found if value.__module__ == config.__name__] or found
            make_parser(config_class, "readme", getattr(config, "PRESETS", None)).parse_args(
                [word for word in words[2:] if word != "train/digits.yaml"] if "--config" not in words else words[2:]
            )
            checked += 1
    assert checked >= 8


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?<![\w-])make ([a-z]+)(?=`|\n)", README))
    assert {"quickstart", "test"} <= named <= targets


def test_the_laptop_section_runs(tmp_path):
    section = README.split("<!-- run -->")[1].split("\n## ")[0]
    for line in commands(section):
        for many, few in LESS.items():
            line = line.replace(many, few)
        line = line.replace("artifacts/", f"{tmp_path}/")
        program, *words = shlex.split(line)
        head = [sys.executable, "-m", "synthclone.cli"] if program == "synthclone" else [sys.executable]
        result = subprocess.run([*head, *words], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
    assert (tmp_path / "results.json").is_file()
