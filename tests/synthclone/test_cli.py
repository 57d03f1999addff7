"""The command line: names of verbs and options are frozen, and mistakes get one line and exit code 2."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from synthclone.cli import VERBS, main

FROZEN = json.loads((Path(__file__).parent / "options.json").read_text())


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
