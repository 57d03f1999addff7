"""`synthclone verify`: each kind of damage is named, repair gives the old bytes back, and a clean set passes."""

import dataclasses
import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from support import make_samples, run_command

from synthclone.gen import shards, storage
from synthclone.gen.duplicates import Duplicates
from synthclone.gen.generate import command as generate
from synthclone.gen.verify import command as verify

OPTIONS = (
    "--classes digits --prompt c,d --guidance 2 --solver ddim --steps 2 --device cpu --per-class 4 --shard-size 10"
)


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def write(folder, replaced=None, count=6):
    """A set of two shards; `replaced` changes samples of the second."""
    target = storage.at(folder)
    classes = [{"key": key, "name": key, "count": count} for key in ("k0", "k1")]
    shards.write_manifest(target, {"num_images": 2 * count, "num_shards": 2, "classes": classes})
    for number in range(2):
        samples = make_samples(count, number * count)
        if number == 1 and replaced:
            samples[2] = replaced(samples[2])
        shards.write_shard(target, number, samples, {})
    return folder


def wrong(folder, tmp_path):
    code = run_command(verify, folder, "--json", tmp_path / "wrong.json")
    rows = json.loads((tmp_path / "wrong.json").read_text())["wrong"]
    assert code == int(bool(rows))
    return [(row["shard"], row["key"], row["what"]) for row in rows]


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_a_clean_set_passes(tmp_path, capsys):
    assert wrong(write(tmp_path / "set"), tmp_path) == []
    assert "nothing is wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jpeg": b"no image"}, "cannot be decoded"),
        ({"jpeg": encoded(Image.new("RGB", (16, 16), (0, 0, 0)))}, "is of one colour, \\[0, 0, 0\\]"),
        ({"fields": {"label": 1, "class": "k0"}}, "label 1 and class 'k0' do not fit"),
        ({"fields": {"label": 9, "class": "k9"}}, "label 9 and class 'k9' do not fit"),
        ({"jpeg": make_samples(2)[1].jpeg}, "has the same pixels as 000000001 of shard 000000"),
    ],
)
def test_a_bad_image_is_named(tmp_path, change, message):
    rows = wrong(write(tmp_path / "set", lambda sample: dataclasses.replace(sample, **change)), tmp_path)
    assert rows[0][:2] == (1, "000000008")
    import re

    assert re.search(message, rows[0][2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "000001.json").unlink(), "the shard is missing"),
        (lambda f: (f / "000001.tar").unlink(), "a file is missing"),
        (lambda f: (f / "000001.idx").write_text("v1.2 0\n"), "the .idx does not fit"),
        (lambda f: (f / "000001.tar").write_bytes((f / "000001.tar").read_bytes()[:2000]), "the tar has 2000 bytes"),
        (lambda f: (f / "000001.tar").write_bytes((f / "000000.tar").read_bytes()), "sha256|bytes"),
        (lambda f: (f / "000001.json").write_text("{"), "is damaged"),
        (lambda f: (f / "000001.json").write_text("[]"), "is damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    import re

    folder = write(tmp_path / "set")
    damage(folder)
    rows = wrong(folder, tmp_path)
    assert rows[0][0] == 1 and re.search(message, rows[0][2])


def test_duplicates_among_many_are_all_found():
    generator = np.random.default_rng(0)
    rows = [generator.bytes(16) for _ in range(5000)]
    with Duplicates() as duplicates:
        duplicates.add(0, rows[:3000])
        duplicates.add(1, [*rows[3000:], rows[17], b"", rows[4000], rows[17]])
        found = sorted(duplicates.find())
    assert found == [((1, 2000), (0, 17)), ((1, 2002), (1, 1000)), ((1, 2003), (0, 17))]


def test_repair_makes_the_same_bytes_again(engines, tmp_path, capsys):
    folder = tmp_path / "set"
    assert run_command(generate, "--engines", engines, *OPTIONS.split(), "--output", folder) == 0
    assert wrong(folder, tmp_path) == []
    before = digests(folder)
    tar = bytearray((folder / "000001.tar").read_bytes())
    tar[len(tar) // 3] ^= 255
    (folder / "000001.tar").write_bytes(tar)
    samples = list(shards.unpack((folder / "000002.tar").read_bytes()))
    samples[0] = dataclasses.replace(samples[0], fields=samples[0].fields | {"seed": "0" * 32})
    shards.write_shard(storage.at(folder), 2, samples, {})
    (folder / "000003.json").unlink()
    rows = wrong(folder, tmp_path)
    assert {row[0] for row in rows} >= {1, 2, 3}
    assert any("has seed '0000" in row[2] for row in rows)
    assert run_command(verify, folder, "--repair", "--engines", engines) == 0
    assert digests(folder) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--repair",), "belong together"), (("--engines", "x"), "belong together"), ((), "is no data set")],
)
def test_bad_options(tmp_path, capsys, words, message):
    assert run_command(verify, tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_other_engines_are_refused_before_anything_is_taken_away(engines, tmp_path, capsys):
    folder = tmp_path / "set"
    assert run_command(generate, "--engines", engines, *OPTIONS.split(), "--output", folder) == 0
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["engines"]["unet"] = "another"
    (folder / "dataset.json").write_text(json.dumps(manifest))
    (folder / "000001.idx").write_text("")
    before = digests(folder)
    assert run_command(verify, folder, "--repair", "--engines", engines) == 2
    assert "give the engines that made it" in capsys.readouterr().err and digests(folder) == before
