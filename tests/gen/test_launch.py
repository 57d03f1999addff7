"""Ranks of launchers, and the queue that hands out shards."""

import pytest

from synthclone.gen.launch import Launch
from synthclone.gen.shard_queue import ShardQueue, WorkersLostError


def test_the_queue_gives_back_what_a_lost_worker_had():
    queue = ShardQueue(range(4), retries=2)
    assert [queue.take("a"), queue.take("a"), queue.take("b")] == [0, 1, 2]
    queue.done("a", 0)
    queue.lost("a", "exit code -9")
    assert [queue.take("b"), queue.take("b"), queue.take("b")] == [1, 3, None]
    assert queue.empty and not queue.finished
    for number in (1, 2, 3):
        queue.done("b", number)
    assert queue.finished
    queue.lost("c", "exit code 1")
    with pytest.raises(WorkersLostError, match=r"2 workers died before they took a shard; the last one: exit code 1\."):
        queue.lost("d", "exit code 1")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch()),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Launch(rank=3, world_size=4, local_rank=1)),
        ({"RANK": "3"}, Launch()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, Launch()),  # a batch script, not a rank
        (
            {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"},
            Launch(rank=3, world_size=4, local_rank=1),
        ),
    ],
)
def test_launchers_environments(environment, expected):
    assert Launch.of_environment(environment) == expected


@pytest.mark.parametrize(("rank", "world", "message"), [("x", "2", "whole numbers"), ("2", "2", "below WORLD_SIZE, 2")])
def test_nonsense_in_the_environment(rank, world, message):
    with pytest.raises(ValueError, match=message):
        Launch.of_environment({"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": "0"})
