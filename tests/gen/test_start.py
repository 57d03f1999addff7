"""Whose data set it is: two runs that start at once, shards without a manifest, other versions, other batches, cards edited by hand."""

import hashlib
import json
import threading

import pytest
from faulty_s3 import faulty_s3
from support import run_command

from synthclone.export.pipeline import describe_pipeline
from synthclone.gen import shards, storage
from synthclone.gen.config import GenerateConfig, make_plan
from synthclone.gen.generate import command as generate
from synthclone.gen.manifest import compare, identity, start_dataset
from synthclone.gen.production import plan_dataset
from synthclone.gen.verify import command as verify

OPTIONS = (
    "--classes digits --prompt c,d --guidance 2 --solver ddim --steps 2 --per-class 3 --shard-size 10 --device cpu"
)


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def made(engines, tmp_path):
    folder = tmp_path / "set"
    assert run_command(generate, "--engines", engines, *OPTIONS.split(), "--output", folder) == 0
    return folder


def manifest_of(engines, **changes):
    config = GenerateConfig(**{"engines": engines, "classes": "digits", "output": "unused", "per_class": 3} | changes)
    return plan_dataset(config, make_plan(config), describe_pipeline(engines), config.batch)


def change_manifest(folder, change):
    manifest = json.loads((folder / "dataset.json").read_text())
    change(manifest)
    (folder / "dataset.json").write_text(json.dumps(manifest))


def start_together(manifests, location):
    """Which were accepted."""
    accepted, barrier = [], threading.Barrier(len(manifests))

    def start(manifest):
        target = storage.at(location)
        barrier.wait()
        try:
            start_dataset(target, manifest)
        except ValueError as error:
            assert "holds another data set" in str(error)
        else:
            accepted.append(manifest)

    threads = [threading.Thread(target=start, args=(manifest,)) for manifest in manifests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return accepted


def test_of_two_different_runs_that_start_at_once_one_is_refused(engines, tmp_path, monkeypatch):
    pair = [manifest_of(engines, guidance=guidance) for guidance in (2.0, 7.5)]
    assert identity(pair[0]) != identity(pair[1])
    for number in range(20):
        (winner,) = start_together(pair, tmp_path / str(number))
        assert shards.read_manifest(storage.at(tmp_path / str(number)))["sampling"] == winner["sampling"]
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == ["dataset.json"]
    same = start_together([pair[0], pair[0]], tmp_path / "same")
    assert len(same) == 2
    with faulty_s3(0.2) as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        for number in range(5):
            assert len(start_together(pair, f"{s3.bucket}/{number}")) == 1
        assert len(start_together([pair[0], pair[0]], f"{s3.bucket}/same")) == 2


def test_a_lost_manifest_is_written_again_for_the_same_data_set_only(engines, made, capsys):
    before = digests(made)
    (made / "dataset.json").write_text("{half")
    assert run_command(generate, "--engines", engines, *OPTIONS.split(), "--output", made) == 2
    assert "dataset.json is damaged" in capsys.readouterr().err
    (made / "dataset.json").unlink()
    assert (
        run_command(generate, "--engines", engines, *OPTIONS.split(), "--distributor", "local", "--output", made) == 0
    )
    assert digests(made) == before
    (made / "dataset.json").unlink()
    assert run_command(generate, "--engines", engines, *OPTIONS.split(), "--seed", 1, "--output", made) == 2
    assert "holds shards of another data set, and no dataset.json" in capsys.readouterr().err
    (made / "000002.json").unlink()
    assert run_command(generate, "--engines", engines, *OPTIONS.split(), "--output", made) == 0
    assert digests(made) == before


def test_a_shard_of_another_data_set_is_noticed(engines, made, capsys):
    marker = json.loads((made / "000001.json").read_text())
    (made / "000001.json").write_text(json.dumps(marker | {"dataset": "0" * 32}))
    assert run_command(generate, "--engines", engines, *OPTIONS.split(), "--output", made) == 2
    error = capsys.readouterr().err
    assert "shard 000001 was made by a run with other options" in error and "delete 000001.json" in error
    assert run_command(verify, made) == 1
    assert "it was made by a run with other options" in capsys.readouterr().out
    assert run_command(verify, made, "--repair", "--engines", engines) == 0
    assert json.loads((made / "000001.json").read_text()) == marker


@pytest.mark.parametrize("distributor", ["none", "local", "ray"])
def test_a_finished_set_is_held_against_the_options_too(engines, made, capsys, distributor):
    words = ["--engines", engines, *OPTIONS.split(), "--output", made, "--distributor", distributor]
    assert run_command(generate, *words, "--seed", 5) == 2
    assert "its sampling.seed is 0, this run's is 5" in capsys.readouterr().err
    assert run_command(generate, *words, "--prompt", "c") == 2
    assert len(capsys.readouterr().err) < 400
    assert run_command(generate, *words) == 0


def test_other_versions_are_warned_of_and_do_not_stop_a_run_or_a_repair(engines, made, capsys):
    before = digests(made)
    change_manifest(made, lambda manifest: manifest["versions"].update(pillow="1.0"))
    (made / "000001.json").unlink()
    assert run_command(generate, "--engines", engines, *OPTIONS.split(), "--output", made) == 0
    assert "was begun with pillow 1.0, and here is" in capsys.readouterr().err
    (made / "000002.tar").write_bytes(b"damaged")
    assert run_command(verify, made, "--repair", "--engines", engines) == 0
    assert {name: digest for name, digest in digests(made).items() if name != "dataset.json"} == {
        name: digest for name, digest in before.items() if name != "dataset.json"
    }


def test_the_batch_must_be_the_same_only_where_rows_depend_on_it(engines, tmp_path):
    manifest = manifest_of(engines, batch=4)
    assert manifest["rows_depend_on_batch"] is False  # ONNX Runtime on a CPU
    for depends in (False, True):
        target, first = storage.at(tmp_path / str(depends)), {**manifest, "rows_depend_on_batch": depends}
        start_dataset(target, first)
        second = {**first, "sampling": {**first["sampling"], "batch": 7}}
        if depends:
            with pytest.raises(ValueError, match=r"its sampling\.batch is 4, this run's is 7"):
                compare(target, second)
        else:
            compare(target, second)


def test_a_card_that_was_completed_by_hand_stays(engines, made):
    text = (made / "README.md").read_text() + "\nTerms: ask us.\n"
    (made / "README.md").write_text(text)
    (made / "croissant.json").unlink()
    (made / "000001.json").unlink()
    assert run_command(generate, "--engines", engines, *OPTIONS.split(), "--output", made) == 0
    assert (made / "README.md").read_text() == text and (made / "croissant.json").is_file()


def test_a_repair_that_cannot_be_done_takes_nothing_away(engines, made, capsys):
    """Its safety checker is gone."""
    change_manifest(made, lambda manifest: manifest["sampling"].update(safety="flag"))
    change_manifest(made, lambda manifest: manifest.update(safety_checker={"folder": "/gone", "sha256": "ab"}))
    (made / "000001.idx").write_text("")
    before = digests(made)
    assert run_command(verify, made, "--repair", "--engines", engines) == 2
    error = capsys.readouterr().err
    assert "/gone has no safety checker" in error and "--safety-checker DIR" in error
    assert digests(made) == before
