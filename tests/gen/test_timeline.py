"""Spans, the table and the trace that Chrome reads."""

import json
import threading
import time

import pytest
from support import run_command

from synthclone.gen import maker, timeline
from synthclone.gen.generate import command as generate
from synthclone.gen.timeline import Span, Timeline


def test_nothing_is_kept_unless_it_is_asked_for():
    quiet = Timeline()
    with quiet.span("unet"):
        pass
    assert quiet.collect() == []


def test_spans_of_all_threads_by_start():
    recorded = Timeline(recording=True)

    def work():
        with recorded.span("jpeg"):
            time.sleep(0.02)

    with recorded.span("unet"):
        thread = threading.Thread(target=work, name="jpeg_0")
        thread.start()
        thread.join()
    outer, inner = recorded.collect()
    assert (outer.stage, inner.stage, inner.thread) == ("unet", "jpeg", "jpeg_0")
    assert outer.start_s <= inner.start_s < inner.end_s <= outer.end_s and inner.end_s - inner.start_s >= 0.02


def test_a_span_is_kept_when_its_block_fails():
    recorded = Timeline(recording=True)
    with pytest.raises(ValueError), recorded.span("write"):
        raise ValueError
    assert [span.stage for span in recorded.collect()] == ["write"]


def test_busy_time_counts_overlaps_once_and_gaps_not_at_all():
    spans = [Span("jpeg", "a", 0, 2), Span("jpeg", "b", 1, 3), Span("jpeg", "a", 5, 6), Span("unet", "c", 0, 10)]
    assert timeline.busy_s(spans, "jpeg") == 4 and timeline.wall_s(spans) == 10
    rows = {line.split()[0]: line.split()[1:] for line in timeline.table(spans).splitlines()}
    assert rows["jpeg"] == ["3", "5.00", "1666.67", "40.0%"] and rows["unet"][-1] == "100.0%"


def test_the_command_leaves_a_trace(engines, tmp_path, capsys):
    words = ["--engines", engines, "--classes", "digits", "--per-class", 2, "--steps", 3, "--solver", "ddim"]
    words += ["--device", "cpu", "--output", tmp_path / "set", "--profile", tmp_path / "trace.json"]
    assert run_command(generate, *words) == 0
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    calls = [event["name"] for event in events if event["ph"] == "X"]
    assert calls.count("unet") == 9 and calls.count("jpeg") == 20 and calls.count("vae_decoder") == 3
    assert {event["args"]["name"].rpartition("_")[0] for event in events if event["ph"] == "M"} >= {
        "decode",
        "jpeg",
        "write",
    }
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in events if event["ph"] == "X")
    assert "vae_decoder" in capsys.readouterr().err


def test_ranks_write_files_of_their_own_also_when_interrupted(engines, tmp_path, monkeypatch):
    words = ["--engines", engines, "--classes", "digits", "--per-class", 2, "--steps", 3, "--solver", "ddim"]
    words += ["--device", "cpu", "--output", tmp_path / "set", "--shard-size", 10, "--profile"]
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(maker.shards, "write_shard", interrupt)
    assert run_command(generate, *words, tmp_path / "trace.json") == 130
    assert [path.name for path in tmp_path.glob("trace*")] == ["trace-1.json"]
    assert '"unet"' in (tmp_path / "trace-1.json").read_text()
    assert run_command(generate, *words, "/proc/trace.json") == 2  # before any image
    assert not list((tmp_path / "set").glob("*.tar"))
