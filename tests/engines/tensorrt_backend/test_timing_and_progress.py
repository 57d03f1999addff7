"""The timing cache between builds, progress bars, and Ctrl-C in the middle of a build."""

import hashlib
import json
import os
import signal
import threading

import pytest

from synthclone.engines import backend as backends


@pytest.fixture
def cache(tmp_path):
    """The one timing cache beside the engines."""

    def find():
        (path,) = (tmp_path / "engines").glob("*.timing")
        return path

    return find


def test_a_second_build_times_nothing_again(build, cache, state):
    build()
    timed = state.kernels_timed
    assert timed > 0
    assert cache().name == "tensorrt_11_4_0_106_cpu_sm.timing"
    build(folder="other", optimization_level=4)
    assert state.kernels_timed == timed


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other GPU"])
def test_a_damaged_cache_is_made_anew_with_a_warning(build, cache, state, caplog, damage):
    build()
    timed, path = state.kernels_timed, cache()
    data = path.read_bytes()
    path.write_bytes(
        {
            "truncated": data[: len(data) // 2],
            "flipped": data[:-1] + bytes([data[-1] ^ 1]),
            "empty": b"",
            "other GPU": data.replace(b'"type": "cpu"', b'"type": "tpu"'),
        }[damage]
    )
    build(folder="other")
    assert "is damaged or of another TensorRT or GPU; it is made anew" in caplog.text
    assert state.kernels_timed == 2 * timed
    assert path.read_bytes() == data


def with_payload(data, payload):
    """A cache file with other bytes of TensorRT's, and a checksum that fits them."""
    header = json.loads(data.partition(b"\n")[0]) | {"sha256": hashlib.sha256(payload).hexdigest()}
    return json.dumps(header).encode() + b"\n" + payload


def test_a_cache_that_tensorrt_refuses_is_made_anew(build, cache, state, caplog):
    build()
    timed, path = state.kernels_timed, cache()
    path.write_bytes(with_payload(path.read_bytes(), b"junk"))
    build(folder="other")
    assert "TensorRT refuses the timing cache" in caplog.text
    assert state.kernels_timed == 2 * timed


def test_builds_at_the_same_time_keep_each_others_timings(build, cache, state):
    build()
    path = cache()
    data = path.read_bytes()
    others = with_payload(data, data.partition(b"\n")[2].replace(b"Conv", b"Gemm"))
    path.unlink()

    def another_build_saves(phase, step):
        path.write_bytes(others)

    state.on_step = another_build_saves
    build(folder="other")
    assert b"Gemm" in path.read_bytes()
    assert b"Conv" in path.read_bytes()


def test_progress_is_shown(build, monkeypatch):
    from synthclone.engines import tensorrt_progress

    bars = []

    class Bar(tensorrt_progress.tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **options | {"disable": False, "file": open(os.devnull, "w")})  # noqa: SIM115, PTH123
            bars.append(self)

    monkeypatch.setattr(tensorrt_progress, "tqdm", Bar)
    build()
    assert [bar.desc for bar in bars] == ["unet: Building", "unet: Timing kernels"]
    assert all(bar.n == bar.total > 0 for bar in bars)


@pytest.mark.parametrize("from_thread", [False, True])
def test_ctrl_c_ends_a_build_cleanly(build, load, cache, state, tmp_path, from_thread):
    def interrupt(phase, step):
        if step == 1:
            steps.append(step)
            send = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
            if from_thread:
                thread = threading.Thread(target=send)
                thread.start()
                thread.join()
            else:
                send()

    steps = []
    state.on_step = interrupt
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build()
    assert steps == [1]
    assert signal.getsignal(signal.SIGINT) is handler
    assert [path.name for path in (tmp_path / "engines").iterdir()] == [cache().name]
    timed = state.kernels_timed
    assert timed in (2, 3)
    state.on_step = None
    build()
    load()
    assert backends.find("tensorrt").versions() == {"tensorrt": "11.4.0.106"}


def test_an_interrupted_rebuild_leaves_the_engine_that_was_there(build, load, state, inputs, tmp_path):
    build()
    manifest = (tmp_path / "engines" / "unet" / "manifest.json").read_text()
    state.on_step = lambda phase, step: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build(optimization_level=5)
    assert (tmp_path / "engines" / "unet" / "manifest.json").read_text() == manifest
    load()(**inputs(2))
