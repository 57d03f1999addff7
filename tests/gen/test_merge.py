"""`synthclone merge`: same JPEG bytes, right labels, resumed halfway, and what cannot be merged."""

import re

import pytest
from small_sets import digests, samples_of, write
from support import run_command

from synthclone.gen import shards
from synthclone.gen.merge import command as merge


def test_merge_ranks_labels_anew_and_keeps_the_jpegs(tmp_path):
    a, b = write(tmp_path / "a", ("m", "z")), write(tmp_path / "b", ("a", "m"), first=12)
    assert run_command(merge, a, b, "--output", tmp_path / "c") == 0
    merged = shards.read_dataset(tmp_path / "c")
    assert merged.class_keys == ["a", "m", "z"]
    assert [entry["count"] for entry in merged.manifest["classes"]] == [6, 12, 6]
    assert [source["location"] for source in merged.manifest["sources"]] == [str(a), str(b)]
    samples = samples_of(tmp_path / "c")
    assert [sample.jpeg for sample in samples] == [sample.jpeg for sample in samples_of(a) + samples_of(b)]
    assert [sample.key for sample in samples] == [f"{i:09d}" for i in range(24)]
    assert all(merged.class_keys[sample.fields["label"]] == sample.fields["class"] for sample in samples)
    assert samples[12].fields | {"source": 1, "source_key": "000000012", "index": 12} == samples[12].fields
    from synthclone.gen.verify import command as verify

    assert run_command(verify, tmp_path / "c") == 0
    before = digests(tmp_path / "c")
    (tmp_path / "c" / "000002.json").unlink()
    assert run_command(merge, a, b, "--output", tmp_path / "c") == 0
    assert digests(tmp_path / "c") == before


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"first": 12, "name": "other"}, "class k0 has name 'k0' in .* but 'other' in"),
        ({}, {}, "hold the same shard"),
        ({"sampling": {"seed": 1}}, {"first": 12, "sampling": {"seed": 1, "batch": 3}}, "same images of class k0"),
    ],
)
def test_what_cannot_be_merged(tmp_path, capsys, first, second, message):
    a, b = write(tmp_path / "a", **first), write(tmp_path / "b", **second)
    assert run_command(merge, a, b, "--output", tmp_path / "c") == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1 and not (tmp_path / "c").exists()


def test_an_unfinished_source_is_refused(tmp_path, capsys):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", first=12)
    (b / "000001.json").unlink()
    assert run_command(merge, a, b, "--output", tmp_path / "c") == 2
    assert "has 6 of its 12 images" in capsys.readouterr().err
    assert run_command(merge, a, "--output", tmp_path / "c") == 2
    assert "give two or more" in capsys.readouterr().err
