"""`synthclone engines`: finished, damaged and unfinished engines, as a table and as JSON."""

import json
import shutil

import pytest
from support import run_command

from synthclone import cli
from synthclone.export.list_engines import COLUMNS


@pytest.fixture
def copy(engines, tmp_path):
    """The session's engines, to damage."""
    shutil.copytree(engines, tmp_path / "engines")
    return tmp_path / "engines"


def listed(capsys, *words):
    assert run_command(cli.main, "engines", *words, "--json") == 0
    return {row["engine"]: row for row in json.loads(capsys.readouterr().out)}


def test_json_has_what_the_manifests_have(engines, capsys):
    rows = listed(capsys, engines)
    assert set(rows) == {"text_encoder", "unet", "vae_decoder"}
    for name, row in rows.items():
        manifest = json.loads((engines / name / "manifest.json").read_text())
        assert row["state"] == "ok"
        assert {key: row[key] for key in ("key", "precision", "device", "parity", "build_seconds")} == {
            key: manifest[key] for key in ("key", "precision", "device", "parity", "build_seconds")
        }
        assert row["ranges"] == manifest["spec"]["ranges"]
        assert row["bytes"] == sum(entry["bytes"] for entry in manifest["files"].values())


def test_table_has_a_line_for_each_engine(engines, capsys):
    assert run_command(cli.main, "engines", engines) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert tuple(head.split()) == COLUMNS
    assert [line.split()[:5] for line in lines] == [
        [name, "ok", "onnxruntime", "fp32", "batch"] for name in ("text_encoder", "unet", "vae_decoder")
    ]
    assert len({line.index("onnxruntime") for line in lines}) == 1


def test_damage_is_listed_and_not_crashed_on(copy, capsys):
    with (copy / "unet" / "model.onnx.data").open("r+b") as file:
        file.truncate(100)
    (copy / "vae_decoder" / "manifest.json").write_text("{")
    (copy / "text_encoder").rename(copy / ".text_encoder.part")
    (copy / ".text_encoder.part" / "manifest.json").unlink()
    rows = listed(capsys, copy)
    assert rows["unet"]["state"].startswith("damaged: model.onnx.data has 100 bytes instead of ")
    assert rows["vae_decoder"]["state"].startswith("damaged: ") and "manifest.json" in rows["vae_decoder"]["state"]
    assert rows["text_encoder"]["state"] == "unfinished (no manifest.json)"
    assert run_command(cli.main, "engines", copy) == 0
    assert "damaged: model.onnx.data has 100 bytes" in capsys.readouterr().out


def test_only_verify_sees_a_changed_byte(copy, capsys):
    path = copy / "unet" / "model.onnx.data"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert listed(capsys, copy / "unet")["unet"]["state"] == "ok"
    assert listed(capsys, copy, "--verify")["unet"]["state"].startswith("damaged: model.onnx.data was changed")


@pytest.mark.parametrize("change", [{"spec": None}, {"format": 99}, {"key": "0" * 32}])
def test_changed_manifests_are_listed_as_damaged(copy, capsys, change):
    path = copy / "unet" / "manifest.json"
    manifest = {name: value for name, value in (json.loads(path.read_text()) | change).items() if value is not None}
    path.write_text(json.dumps(manifest))
    assert listed(capsys, copy)["unet"]["state"].startswith("damaged: ")


def test_wrong_folders_are_one_line(tmp_path, capsys):
    assert run_command(cli.main, "engines", tmp_path / "none") == 2
    assert "is no folder; give one that" in capsys.readouterr().err
    assert run_command(cli.main, "engines", tmp_path) == 2
    assert "holds no engines; make them with `synthclone build" in capsys.readouterr().err
    assert run_command(cli.main, "engines") == 2
    assert capsys.readouterr().err.count("\n") == 1
