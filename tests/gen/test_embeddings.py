"""Distinct prompts are encoded once; in memory, on disk, or asked for in any order they are the same."""

import dataclasses
import errno
import itertools

import pytest
import torch

from synthclone.gen import embeddings
from synthclone.gen.embeddings import ENCODED_ROWS, Embeddings

PROMPTS = [f"a digit, number {number}" for number in range(11)]


class Counting:
    def __init__(self, engine):
        self.spec, self.device, self.engine, self.rows = engine.spec, engine.device, engine, []

    def __call__(self, tokens):
        self.rows.append(len(tokens))
        return self.engine(tokens=tokens)


def counting(pipeline):
    encoder = Counting(pipeline.text_encoder)
    return encoder, dataclasses.replace(pipeline, text_encoder=encoder)


def test_each_distinct_prompt_is_encoded_once_in_calls_of_one_size(pipeline):
    encoder, watched = counting(pipeline)
    table = Embeddings(watched)
    first = table.gather([*PROMPTS, *PROMPTS])
    calls = len(encoder.rows)
    assert set(encoder.rows) == {min(ENCODED_ROWS, encoder.spec.ranges["batch"].maximum)}
    assert torch.equal(first[:11], first[11:])
    assert torch.equal(table.gather(PROMPTS[::-1]), first[:11].flip(0))
    assert len(encoder.rows) == calls


def test_a_prompt_has_the_same_row_whatever_is_encoded_with_it(pipeline):
    together = Embeddings(pipeline).gather(PROMPTS)
    table = Embeddings(pipeline)
    alone = torch.cat([table.gather([prompt]) for prompt in PROMPTS])
    assert torch.equal(together, alone)


def test_what_does_not_fit_on_the_device_goes_to_a_file(pipeline, monkeypatch, tmp_path):
    monkeypatch.setattr(embeddings, "BLOCK_ROWS", 4)
    monkeypatch.setattr(embeddings.tempfile, "tempdir", str(tmp_path))
    expected = Embeddings(pipeline).gather(PROMPTS)
    block_bytes = 4 * expected[0].numel() * expected.element_size()
    table = Embeddings(pipeline, device_bytes=block_bytes)
    assert torch.equal(table.gather(PROMPTS), expected)
    files = list(tmp_path.rglob("*.bin"))
    assert [path.stat().st_size for path in files] == [block_bytes] * 2
    assert torch.equal(table.gather(PROMPTS[5:7]), expected[5:7])
    del table
    assert not list(tmp_path.iterdir())


def test_bfloat16_goes_through_a_file_unchanged(pipeline, monkeypatch):
    """NumPy has no such type."""
    monkeypatch.setattr(embeddings, "BLOCK_ROWS", 2)

    class Halved(Counting):
        def __call__(self, tokens):
            return self.engine(tokens=tokens).bfloat16()

    watched = dataclasses.replace(pipeline, text_encoder=Halved(pipeline.text_encoder))
    made = Embeddings(watched, device_bytes=0).gather(PROMPTS)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, Embeddings(pipeline).gather(PROMPTS).bfloat16())
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(made))


def test_a_full_disk_is_an_error_and_no_crash(pipeline, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embeddings.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Embeddings(pipeline, device_bytes=0).gather(PROMPTS)
