"""The benchmark scripts run at their smallest size, end with one JSON line, and lose nothing to a part that fails."""

import json

import pytest
import torch
from support import run_command

from synthclone.bench import (
    generation,
    gpu_generation,
    gpu_session,
    kill_generation,
    measure,
    plan_lookup,
    published,
    unet_cpu,
)
from synthclone.engines.spec import AxisRange

CPU = torch.device("cpu")


def last_json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_unet_cpu_sets_contenders_side_by_side(tmp_path, capsys):
    record = tmp_path / "records" / "unet_cpu.json"
    words = ["--size", "tiny", "--contenders", "eager_bf16", "--num-warmup", 1, "--num-runs", 2]
    assert run_command(unet_cpu.command, *words, "--work", tmp_path / "work", "--record", record) == 0
    answer = last_json(capsys)
    assert answer == json.loads(record.read_text())
    assert set(answer["results"]) == {"eager_fp32", "eager_bf16"}
    assert answer["results"]["eager_fp32"]["relative_error"] == 0
    assert 1e-4 < answer["results"]["eager_bf16"]["relative_error"] < 0.1
    assert answer["results"]["eager_bf16"]["num_runs"] == 2
    assert answer["results"]["eager_bf16"]["gflops"] > 0
    assert answer["matmul_peak_gflops"]["fp32"] > 0
    assert answer["machine"]["versions"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__


def test_unet_cpu_names_the_valid_contenders(capsys):
    assert run_command(unet_cpu.command, "--contenders", "eager_fp64") == 2
    assert "unknown contender 'eager_fp64'; valid contenders: eager_fp32, " in capsys.readouterr().err


def test_gpu_generation_sets_ours_beside_diffusers(tmp_path, capsys):
    words = ["--size", "tiny", "--device", "cpu", "--precision", "fp32", "--backends", "tensorrt,onnxruntime"]
    words += ["--batches", 2, "--steps", 2, "--num-rounds", 1, "--record", tmp_path / "answer.json"]
    assert run_command(gpu_generation.command, *words) == 0
    answer = last_json(capsys)
    assert answer == json.loads((tmp_path / "answer.json").read_text())
    rows = {row["way"]: row for row in answer["rows"]}
    assert list(rows) == ["tensorrt", "onnxruntime", "diffusers", "diffusers_torch_compile"]
    assert "failed" in rows.pop("tensorrt")
    assert all("failed" not in row and min(row["images_per_s"]) > 0 for row in rows.values()), rows


def test_gpu_session_rehearses_on_a_cpu_and_records_failures(tmp_path, capsys, monkeypatch):
    generated = lambda options, device, work: [f"{options.backends.split(',')[-1]} at {options.batches}"]  # noqa: E731
    monkeypatch.setattr(gpu_generation, "measure_all", generated)
    words = ["--size", "tiny", "--device", "cpu", "--precision", "fp32", "--quick", "--components", "text_encoder,unet"]
    words += ["--ways", "eager,tensorrt,onnxruntime", "--record", tmp_path / "answer.json"]
    assert run_command(gpu_session.command, *words) == 0
    answer = last_json(capsys)
    assert answer == json.loads((tmp_path / "answer.json").read_text())
    parts = {(part["component"], part["way"]): part for part in answer["parts"]}
    assert len(parts) == 6
    assert answer["generation"] == ["onnxruntime at 1,4"]
    for component in ("text_encoder", "unet"):
        for way in ("eager", "onnxruntime"):
            for batch in ("1", "4"):
                entry = parts[component, way]["batches"][batch]
                assert entry["relative_error"] < 1e-4
                assert entry["median_ms"] > 0
                assert entry["tflops"] >= 0
        assert "ValueError" in parts[component, "tensorrt"]["failed"]


def test_gpu_session_names_the_valid_ways(capsys):
    assert run_command(gpu_session.command, "--ways", "magic") == 2
    assert "unknown 'magic'; valid: eager, " in capsys.readouterr().err


def test_the_published_unet_has_its_published_size_and_work():
    with torch.device("meta"):
        unet = published.make("sd14", "unet")
    assert sum(value.numel() for value in unet.parameters()) == 859_520_964
    spec = published.spec_of("sd14", "unet", "fp32", AxisRange.parse("1"))
    assert measure.count_flop(unet, spec.sample({"batch": 1}, seed=0).values()) == pytest.approx(0.803e12, rel=0.01)


def test_summary_and_times():
    assert measure.summary([3.0, 1.0, 2.0]) == {"median_ms": 2.0, "min_ms": 1.0, "max_ms": 3.0, "num_runs": 3}
    calls = []
    assert len(measure.times_ms(lambda: calls.append(1), CPU, num_warmup=2, num_runs=3)) == 3
    assert len(calls) == 5


def test_plan_lookup_records_times_and_memory(tmp_path, capsys):
    words = ["--classes", "imagenet100", "--per-class", 1000, "--num-lookups", 50, "--record", tmp_path / "answer.json"]
    assert run_command(plan_lookup.command, *words) == 0
    answer = last_json(capsys)
    assert answer == json.loads((tmp_path / "answer.json").read_text())
    assert answer["num_images"] == 100_000 and answer["peak_memory_mb"] > 0
    assert all(0 < result["us_per_image"] < 10_000 for result in answer["results"].values())


def test_generation_measures_peers_shares_and_identity(engines, tmp_path, capsys):
    words = ["--engines", engines, "--batch", 8, "--steps", 3, "--num-batches", 2, "--num-rounds", 1, "--null-ms", 2]
    words += ["--num-null-batches", 2]
    assert run_command(generation.command, *words, "--record", tmp_path / "generation.json") == 0
    answer = last_json(capsys)
    assert answer == json.loads((tmp_path / "generation.json").read_text())
    assert set(answer["peers"]) == {"1", "8"}
    assert answer["peers"]["8"]["num_images"] == 10 and answer["peers"]["8"]["ratio"][0] > 0
    for run in ("digits", "null"):
        assert 0 < answer[run]["all_but_unet"] < 1 and answer[run]["busy"]["unet"] > 0
    assert answer["identity"]["same_bytes"] == {"1": True, "7": True, "8": True}
    assert (tmp_path / "generation.png").stat().st_size > 10_000


def test_kills_leave_the_same_bytes(engines, tmp_path, capsys):
    words = ["--engines", engines, "--kills", 1, "--per-class", 4, "--batch", 8, "--longest-s", 1]
    assert run_command(kill_generation.command, *words, "--record", tmp_path / "kills.json") == 0
    answer = last_json(capsys)
    assert answer["one_process"]["identical"] and answer["two_local_workers"]["identical"]
    assert answer["one_process"]["kills"] == 1
