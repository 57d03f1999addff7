"""Captured calls, and engines that share a lane: same answers as plain calls, at addresses that stay."""

import torch

from synthclone.engines import device_stream

CPU = torch.device("cpu")


def test_captured_calls_answer_as_plain_ones_do(build, load, inputs, state):
    build()
    plain, captured = load(), load(cuda_graphs=True)
    for seed, batch in enumerate((2, 2, 3, 2, 3, 1, 2)):
        values = inputs(batch, seed=seed)
        assert torch.equal(captured(**values), plain(**values))
    assert captured._lane.captures == 3
    assert captured._lane.replays == 7
    assert captured._lane.drains == 0


def test_a_replay_sets_nothing_in_the_context(build, load, inputs):
    build()
    engine = load(cuda_graphs=True)
    engine(**inputs(2))
    (call,) = engine._captured.values()
    changes = call.context._changes
    for seed in range(3):
        engine.step(**inputs(2, seed=seed))
    assert call.context._changes == changes


def test_only_the_latest_sizes_stay_captured(build, load, inputs, reference):
    build(batch="1:2:12")
    engine = load(cuda_graphs=True)
    for batch in (*range(1, 11), 1):
        values = inputs(batch)
        torch.testing.assert_close(engine(**values), reference(values), rtol=1e-4, atol=1e-5)
    assert list(engine._captured) == [(4,), (5,), (6,), (7,), (8,), (9,), (10,), (1,)]
    assert engine._lane.drains == 3


def test_engines_on_a_lane_share_one_block_of_the_largest_need(build, load, inputs, reference):
    build(folder="small", batch="1:2:2")
    build(folder="large", batch="1:2:32")
    lane = device_stream.make_lane(CPU)
    small, large = load("small", lane=lane), load("large", lane=lane)
    for _ in range(2):
        for engine in (small, large):
            values = inputs(2)
            torch.testing.assert_close(engine(**values), reference(values), rtol=1e-4, atol=1e-5)
    for engine in (small, large):
        assert [call.context._memory[0] for call in engine._calls.values()] == [lane.block(0).data_ptr()]
    needs = [engine._plan.engine.device_memory_size_v2 for engine in (small, large)]
    assert lane.block(0).numel() == max(needs) > min(needs)


def test_a_block_that_moves_makes_a_new_capture(build, load, inputs, reference):
    build(folder="small", batch="1:2:2")
    build(folder="large", batch="1:2:32")
    lane = device_stream.make_lane(CPU)
    small, large = load("small", lane=lane, cuda_graphs=True), load("large", lane=lane, cuda_graphs=True)
    values = inputs(2)
    for engine, captures in ((small, 1), (small, 1), (large, 2), (small, 3), (large, 3), (small, 3)):
        torch.testing.assert_close(engine(**values), reference(values), rtol=1e-4, atol=1e-5)
        assert lane.captures == captures
