"""The command line: names of verbs and options are frozen, and mistakes get one line and exit code 2."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from synthclone.cli import VERBS, main
from synthclone.engines.command import parse

FROZEN = json.loads((Path(__file__).parent / "options.json").read_text())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Small:
    """A small command."""

    count: int = 0
    """Of things."""
    name: str = ""
    """Of one."""
    fruit: Literal["apple", "pear", 7] = "apple"
    """One of three."""


def options_of(verb: str) -> list[str]:
    """The option names of a verb, from its configuration."""
    module = importlib.import_module(VERBS[verb][0])
    configs = [
        value for name, value in vars(module).items() if name.endswith("Config") and dataclasses.is_dataclass(value)
    ]
    (config,) = [config for config in configs if config.__module__ == module.__name__] or configs
    return sorted(
        field.name if field.metadata.get("positional") else "--" + field.name.replace("_", "-")
        for field in dataclasses.fields(config)
    )


def test_verbs_and_options_are_those_people_have_in_their_scripts():
    """To rename an option, change `options.json` too, and say so in the changelog."""
    assert {verb: options_of(verb) for verb in VERBS} == FROZEN


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_names_every_option_with_its_default(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(option in text for option in FROZEN[verb])


def test_no_verb_shows_the_verbs(capsys):
    assert main([]) == 2
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    assert main(["--help"]) == 0


def test_unknown_verb(capsys):
    assert main(["clone"]) == 2
    error = capsys.readouterr().err
    assert "unknown verb 'clone'; valid verbs: build, engines" in error and error.count("\n") == 1


def test_yaml_and_options_mix(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("classes: digits\nper_class: 0\nengines: nowhere\noutput: out\n")
    assert main(["generate", "--config", str(tmp_path / "c.yaml")]) == 2
    assert "--per-class is 0" in capsys.readouterr().err
    assert main(["generate", "--config", str(tmp_path / "c.yaml"), "--per-class", "3"]) == 2
    assert "nowhere holds no engines" in capsys.readouterr().err


def test_ctrl_c_is_130(tmp_path):
    code = (
        "from synthclone.engines.command import run; from dataclasses import dataclass\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class C:\n    '''Wait.'''\n"
        "def stop(config): raise KeyboardInterrupt\n"
        "raise SystemExit(run(C, stop, prog='x', argv=[]))"
    )
    (tmp_path / "x.py").write_text(code)
    result = subprocess.run([sys.executable, str(tmp_path / "x.py")], capture_output=True, text=True)
    assert result.returncode == 130 and "run the same command again" in result.stderr


def test_ctrl_c_while_modules_are_imported_is_130_too(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\nexcept BaseException: pass"
    )
    code = "from synthclone import cli; cli.VERBS['plan'] = ('slow', ''); raise SystemExit(cli.main(['plan']))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 130
    assert result.stderr == "synthclone plan: interrupted; run the same command again to go on\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--count", "3", "--config", "{yaml}"],
        ["--count=3", "--config={yaml}"],
        ["--config", "{yaml}", "--count", "3"],
        ["--count", "3", "--config", "{yaml}", "--config", "{later}"],
        ["--count", "3", "--preset", "usual"],
        ["--preset=usual", "--count", "3"],
        ["--preset", "usual", "--count", "3", "--config={later}"],
    ],
)
def test_options_override_files_wherever_they_stand(tmp_path, words):
    (tmp_path / "usual.yaml").write_text("count: 1\nname: usual\n")
    (tmp_path / "later.yaml").write_text("name: later\n")
    named = {"yaml": tmp_path / "usual.yaml", "later": tmp_path / "later.yaml"}
    config = parse(Small, "small", [word.format(**named) for word in words], tmp_path)
    assert (config.count, config.name) == (3, "later" if "later" in " ".join(words) else "usual")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fruit", "aple"], "'aple' is none of apple | pear | 7; did you mean apple?"),
        (["--fruit", "8"], "'8' is none of apple | pear | 7;"),
        (["--config", "{yaml}"], "'peer' is none of apple | pear | 7; did you mean pear"),
        (["--config", "{off}"], "False is none of apple | pear | 7; YAML needs quotes around on, off"),
        (["--count", "3", "--config"], "expected one argument"),
        (["--cou", "3"], "unrecognized arguments: --cou"),
    ],
)
def test_what_does_not_parse_gets_one_line(tmp_path, capsys, words, message):
    (tmp_path / "own.yaml").write_text("fruit: peer\n")
    (tmp_path / "off.yaml").write_text("fruit: off\n")
    with pytest.raises(SystemExit) as stop:
        parse(Small, "small", [word.format(yaml=tmp_path / "own.yaml", off=tmp_path / "off.yaml") for word in words])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1 and "Literal" not in error


def test_choices_may_be_numbers():
    assert parse(Small, "small", ["--fruit", "7"]).fruit == 7
