"""The CUDA lane's order of events, against a `torch.cuda` that notes what it is told. Nothing runs on a GPU here."""

from contextlib import contextmanager

import pytest
import torch

from synthclone.engines import device_stream


@pytest.fixture
def notes(monkeypatch):
    """A stand-in for the parts of torch.cuda that the lane uses; everything it is told lands in a list."""
    said = []

    class Stream:
        cuda_stream = 99

        def __init__(self, device=None, name="lane"):
            self.name = name

        def wait_stream(self, other):
            said.append(f"{self.name} waits for {other.name}")

        def synchronize(self):
            said.append(f"host waits for {self.name}")

    @contextmanager
    def on_stream(stream):
        said.append(f"on {stream.name}")
        yield
        said.append(f"off {stream.name}")

    class Graph:
        def replay(self):
            said.append("replay")

    @contextmanager
    def capture(graph, stream, capture_error_mode):
        said.append(f"capture on {stream.name}, {capture_error_mode}")
        yield
        said.append("captured")

    caller, empty = Stream(name="caller"), torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: caller)
    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: empty(size, dtype=dtype))
    return said


@pytest.fixture
def lane(notes):
    return device_stream.make_lane(torch.device("cuda", 0))


def test_a_turn_comes_after_the_caller_and_before_what_it_does_next(lane, notes):
    assert lane.handle == 99
    with lane.turn():
        notes.append("work")
    assert notes == ["lane waits for caller", "on lane", "work", "off lane", "caller waits for lane"]
    assert lane.alignment_bytes == 256


def test_a_turn_that_fails_is_still_closed(lane, notes):
    with pytest.raises(ValueError, match="wrong"), lane.turn():
        raise ValueError("wrong")
    assert notes[-1] == "caller waits for lane"


def test_the_block_grows_on_the_lane_and_never_shrinks(lane, notes):
    small = lane.block(100)
    assert notes == ["on lane", "off lane"]
    assert lane.block(50) is small
    assert lane.block(1000).numel() == 1000
    assert lane.block(10).numel() == 1000
    assert notes == ["on lane", "off lane"] * 2


def test_a_capture_is_on_the_lane_and_replays(lane, notes):
    replay = lane.capture(lambda: notes.append("queued"))
    assert notes == ["capture on lane, thread_local", "queued", "captured"]
    replay()
    assert notes[-1] == "replay"
    lane.drain()
    assert notes[-1] == "host waits for lane"
