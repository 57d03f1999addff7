"""The data set that broken runs are compared with."""

import pytest
from broken_runs import digests, words
from support import run_command

from synthclone.gen.generate import command as generate


@pytest.fixture(scope="session")
def unbroken(engines, tmp_path_factory):
    """Digests of a run by one process, whole."""
    folder = tmp_path_factory.mktemp("unbroken") / "set"
    assert run_command(generate, *words(engines, folder)) == 0
    assert len(digests(folder)) == 36
    return digests(folder)
