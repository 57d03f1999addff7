"""The largest batch that fits: found without trying more than logarithmically many."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import run_command

from synthclone.gen import batch_size, shards, storage
from synthclone.gen.batch_size import fitting_batch, largest_batch, memory_taken
from synthclone.gen.generate import command as generate


@given(st.integers(1, 8), st.integers(0, 300), st.integers(0, 300))
def test_the_largest_that_fits(smallest, more, limit):
    largest, tried = smallest + more, []

    def fits(batch):
        tried.append(batch)
        return batch <= limit

    if limit < smallest:
        with pytest.raises(ValueError, match=rf"a batch of {smallest}, .*--memory-limit"):
            largest_batch(fits, smallest, largest)
        return
    assert largest_batch(fits, smallest, largest) == min(limit, largest)
    assert all(smallest <= batch <= largest for batch in tried) and len(set(tried)) == len(tried) <= 20


def test_memory_taken_is_the_most_at_a_time():
    for size, count in ((30, 4), (20, 6)):  # the first are mapped, and freeing them sends the others to the heap
        freed = [np.ones(size * 2**20, dtype=np.uint8) for _ in range(count)]
        above = np.ones(200_000, dtype=np.uint8)  # so the heap does not shrink: it has 120 MiB free, and resident
        del freed

    def take():
        for _ in range(3):
            np.ones(40 * 2**20, dtype=np.uint8).sum()  # 40 MiB, given back each time

    assert 30 * 2**20 < memory_taken(take, torch.device("cpu")) < 90 * 2**20
    assert len(above)


def test_an_engine_that_runs_out_of_memory_does_not_fit(pipeline, monkeypatch, capsys):
    call = type(pipeline.unet).__call__

    def run_out(self, **inputs):
        if self.spec.name == "unet" and len(inputs["latent"]) > 6:
            raise MemoryError("no room for 7 rows")
        return call(self, **inputs)

    monkeypatch.setattr(type(pipeline.unet), "__call__", run_out)
    assert fitting_batch(lambda: pipeline, 2**40, guided=True, height=0, width=0) == 3
    assert fitting_batch(lambda: pipeline, 2**40, guided=False, height=0, width=0) == 6
    assert "no room for 7 rows" in capsys.readouterr().err


def test_the_command_records_what_it_found(engines, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_size, "memory_taken", lambda run, device: run() or 3 * 2**30)
    words = ["--engines", engines, "--classes", "digits", "--per-class", 1, "--steps", 2, "--device", "cpu"]
    assert run_command(generate, *words, "--memory-limit", 4, "--output", tmp_path / "set") == 0
    assert shards.read_manifest(storage.at(tmp_path / "set"))["sampling"]["batch"] == 8
    assert run_command(generate, *words, "--memory-limit", 2, "--output", tmp_path / "other") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--memory-limit", -1), "must be 0"), (("--memory-limit", 1, "--batch", 2), "give one of them")],
)
def test_bad_options(engines, tmp_path, capsys, words, message):
    assert run_command(generate, "--engines", engines, "--classes", "digits", "--output", tmp_path / "set", *words) == 2
    assert message in capsys.readouterr().err
