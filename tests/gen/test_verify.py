"""`synthclone verify`: each kind of damage is named, repair gives the old bytes back, and a clean set passes."""

import dataclasses
import hashlib
import io
import json
import re
import shutil

import pytest
from PIL import Image
from support import make_samples, run_command

from synthclone.gen import shards, storage
from synthclone.gen import verify as verify_module
from synthclone.gen.generate import command as generate
from synthclone.gen.merge import command as merge
from synthclone.gen.noise import retry_seed
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


def huge():
    """A JPEG that claims to be of 65,535 x 65,535 pixels."""
    data = bytearray(make_samples(1)[0].jpeg)
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff" * 4
    return bytes(data)


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
        ({"jpeg": huge()}, "cannot be decoded: .*decompression bomb"),
        ({"fields": {"label": 0, "class": ["k0"]}}, "has class \\['k0'\\] instead of a string"),
        ({"fields": {"label": "0", "class": "k0"}}, "has label '0' instead of a whole number"),
        ({"fields": {"label": 0}}, "has no class"),
    ],
)
def test_a_bad_image_is_named(tmp_path, change, message):
    rows = wrong(write(tmp_path / "set", lambda sample: dataclasses.replace(sample, **change)), tmp_path)
    assert rows[0][:2] == (1, "000000008")
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
        (
            lambda f: (f / "000001.json").write_text('{"count": "6", "bytes": 1, "sha256": 2}'),
            "is damaged: it has count",
        ),
        (lambda f: (f / "000001.idx").unlink(), "a file is missing"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    folder = write(tmp_path / "set")
    damage(folder)
    rows = wrong(folder, tmp_path)
    assert re.search(message, next(what for number, _, what in rows if number == 1))
    assert all(row[0] is not None for row in rows)  # no counts, which only follow from it


def test_a_missing_index_hides_nothing(tmp_path):
    folder = write(tmp_path / "set", lambda sample: dataclasses.replace(sample, jpeg=b"no image"))
    (folder / "000001.idx").unlink()
    rows = wrong(folder, tmp_path)
    assert len(rows) == 2 and "000001.idx" in rows[0][2] and "cannot be decoded" in rows[1][2]


def test_wrong_counts_and_files_of_another_set_are_named(tmp_path):
    folder = write(tmp_path / "set", lambda s: dataclasses.replace(s, fields=s.fields | {"label": 1, "class": "k1"}))
    (folder / "000007.tar").write_bytes(b"left behind")
    assert [row[2] for row in wrong(folder, tmp_path)] == [
        "is not of this set: the manifest knows only 2 shards",
        "class k0 has 5 images; the manifest says 6",
        "class k1 has 7 images; the manifest says 6",
    ]


def test_images_of_the_same_pixels_are_named_in_both_places(tmp_path, monkeypatch):
    twin = make_samples(2)[1].jpeg
    folder = write(tmp_path / "set", lambda sample: dataclasses.replace(sample, jpeg=twin))
    assert wrong(folder, tmp_path) == [
        (0, "000000001", "has the same pixels as 000000008 of shard 000001"),
        (1, "000000008", "has the same pixels as 000000001 of shard 000000"),
    ]
    same = [dataclasses.replace(sample, jpeg=twin) for sample in make_samples(6, 6)]
    shards.write_shard(storage.at(folder), 1, same, {})
    monkeypatch.setattr(verify_module, "MOST_NAMED", 3)
    assert wrong(folder, tmp_path) == [
        (0, "000000001", "has the same pixels as 000000006 of shard 000001 and 5 more"),
        (1, None, "4 more images have the same pixels as others"),
        (1, "000000006", "has the same pixels as 000000001 of shard 000000 and 5 more"),
        (1, "000000007", "has the same pixels as 000000001 of shard 000000 and 5 more"),
    ]


def changed(folder, number, position, **change):
    """Change one sample of a shard, and the shard's marker with it."""
    marker = json.loads((folder / f"{number:06d}.json").read_text())
    samples = list(shards.unpack((folder / f"{number:06d}.tar").read_bytes()))
    change["fields"] = samples[position].fields | change.get("fields", {})
    samples[position] = dataclasses.replace(samples[position], **change)
    shards.write_shard(
        storage.at(folder), number, samples, {"engines": marker["engines"]} if "engines" in marker else {}
    )


def untagged(data):
    with Image.open(io.BytesIO(data)) as image:
        return encoded(image)


@pytest.fixture(scope="module")
def generated(engines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "set"
    assert run_command(generate, "--engines", engines, *OPTIONS.split(), "--output", folder) == 0
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": "0" * 32}, "has seed '0000"),
        ({"seed": "0" * 32, "attempt": 2}, "has seed '0000"),
        ({"attempt": 1}, "has seed '"),
        ({"attempt": "1"}, "has attempt '1' instead of a whole number"),
        ({"guidance": 3.0}, "has guidance 3.0; by the manifest it is 2.0"),
        ({"solver": "pndm"}, "has solver 'pndm'; by the manifest it is 'ddim'"),
        ({"steps": 9}, "has steps 9; by the manifest it is 2"),
        ({"model": "another"}, "has model 'another'"),
        ({"model_sha256": "0"}, "has model_sha256 '0'"),
        ({"negative_prompt": "blur"}, "has negative_prompt 'blur'; by the manifest it is ''"),
    ],
)
@pytest.mark.parametrize("merged", [False, True])
def test_what_differs_from_the_manifest_is_named(generated, both, tmp_path, fields, message, merged):
    folder = shutil.copytree(both if merged else generated, tmp_path / "set")
    changed(folder, 1, 3, fields=fields)
    rows = wrong(folder, tmp_path)
    assert [row[:2] for row in rows] == [(1, "000000013")] and rows[0][2].startswith(message)


def test_a_seed_of_a_later_attempt_passes(generated, tmp_path):
    folder = shutil.copytree(generated, tmp_path / "set")
    seed = next(shards.unpack((folder / "000001.tar").read_bytes())).fields["seed"]
    changed(folder, 1, 0, fields={"seed": retry_seed(seed, 2), "attempt": 2})
    assert wrong(folder, tmp_path) == []


@pytest.fixture(scope="module")
def both(generated, tmp_path_factory):
    """The generated set and real images, merged; the generated ones are first."""
    folder = tmp_path_factory.mktemp("both")
    assert run_command(merge, generated, write(folder / "real"), "--output", folder / "set") == 0
    return folder / "set"


def test_a_merged_set_is_held_against_the_plans_of_its_sources(generated, both, tmp_path):
    assert wrong(both, tmp_path) == []
    folder = shutil.copytree(both, tmp_path / "set")
    changed(folder, 2, 0, fields={"source_key": "000000021"})
    changed(folder, 3, 1, jpeg=untagged(next(shards.unpack((folder / "000003.tar").read_bytes())).jpeg))
    changed(folder, 4, 0, fields={"prompt": "real images have no plan"})
    rows = {row[:2]: row[2] for row in wrong(folder, tmp_path)}
    assert rows[2, "000000020"] == "has source_key '000000021'; by the manifest it is '000000020'"
    assert "lacks the IPTC digital source type" in rows[3, "000000031"]
    assert not any(number == 4 for number, _ in rows)


def test_an_untagged_image_and_the_card_of_a_generated_set(generated, tmp_path):
    folder = shutil.copytree(generated, tmp_path / "set")
    changed(folder, 1, 3, jpeg=untagged(list(shards.unpack((folder / "000001.tar").read_bytes()))[3].jpeg))
    (folder / "README.md").unlink()
    (folder / "croissant.json").write_text("{")
    rows = wrong(folder, tmp_path)
    assert [row[:2] for row in rows] == [(1, "000000013"), (None, None), (None, None)]
    assert "lacks the IPTC digital source type" in rows[0][2]
    assert rows[1][2] == "README.md is missing; run the command that made the data set again"
    assert "croissant.json is damaged" in rows[2][2]
    (folder / "croissant.json").unlink()
    (folder / "000003.json").unlink()
    assert [row[2] for row in wrong(folder, tmp_path)][1:] == ["the shard is missing"]  # no card before its end


def test_repair_makes_the_same_bytes_again(engines, tmp_path, monkeypatch):
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
    for end in ("tar", "idx", "json"):
        shutil.copy(folder / f"000000.{end}", folder / f"000009.{end}")
    rows = wrong(folder, tmp_path)
    assert {row[0] for row in rows} >= {1, 2, 3, 9}
    assert any("has seed '0000" in row[2] for row in rows)
    read, real = [], verify_module.check_shard
    monkeypatch.setattr(verify_module, "check_shard", lambda *given: read.append(given[1]) or real(*given))
    assert run_command(verify, folder, "--repair", "--engines", engines) == 0
    assert digests(folder) == before
    assert read == [0, 1, 2, 1, 2, 3]  # what was made again, and no more


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
