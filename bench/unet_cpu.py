"""One guided step of Stable Diffusion 1.4's U-Net on a CPU: PyTorch, ONNX Runtime, OpenVINO and our Inductor package.

    python bench/unet_cpu.py                                        full size, 860 M parameters, batch 2 (one guided pair)
    python bench/unet_cpu.py --size small --contenders eager_fp32,inductor_bf16

Every contender runs in a process of its own, one after another, because two full-size models are more than many
machines hold; with `--rounds` over 1 the whole series is repeated, so that a drift of the machine meets all alike. An
error is relative to PyTorch fp32: root mean square of the difference over that of the reference. The ways themselves are in
`unet_contenders.py`. Ends with one JSON line, which is also the record.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from synthclone.bench import measure, published
from synthclone.bench.unet_contenders import CONTENDERS, CPU, Case
from synthclone.engines import files
from synthclone.engines.command import run
from synthclone.engines.parity import relative_error
from synthclone.engines.spec import AxisRange

Step = Literal["all", "prepare", "run", "peak"]
REFERENCE = "eager_fp32"


@dataclass(frozen=True, kw_only=True)
class UNetCpuConfig:
    """Time one guided step of Stable Diffusion's U-Net on a CPU, several ways."""

    size: published.Size = "sd14"
    """sd14 (860 M parameters, 64x64 latents), small or tiny."""
    contenders: str = ",".join(CONTENDERS)
    """Which ways to measure, separated by commas; eager_fp32 is the reference and always runs."""
    batch: int = 2
    """Rows of the U-Net's batch; 2 is one guided image."""
    rounds: int = 1
    """How often the series is repeated."""
    num_warmup: int = 2
    """Calls before each measurement, not counted."""
    num_runs: int = 5
    """Calls that are timed in each round."""
    work: Path | None = None
    """Folder for exported graphs and compiled packages, many GB at full size, kept for the next time; None: temporary."""
    record: Path | None = Path("bench/records/unet_cpu.json")
    """Where the result goes besides the screen."""
    step: Step = "all"
    """The program calls itself with the other values, for one contender each."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.contenders.split(",") if name not in CONTENDERS]
        if unknown:
            raise ValueError(f"unknown contender {unknown[0]!r}; valid contenders: {', '.join(CONTENDERS)}")
        if min(self.batch, self.rounds, self.num_runs) < 1 or self.num_warmup < 0:
            raise ValueError("batch, rounds and num-runs must be at least 1, and num-warmup at least 0")
        if self.step in {"prepare", "run"} and self.work is None:
            raise ValueError(f"step {self.step} needs --work, the folder that --step all made")

    def case(self) -> Case:
        """What the contenders run."""
        assert self.work is not None
        return Case(size=self.size, batch=self.batch, work=self.work)


def main(config: UNetCpuConfig) -> None:
    """Measure all, or be the child that does one step."""
    if config.step == "all":
        if config.work is not None:
            config.work.mkdir(parents=True, exist_ok=True)
            _series(config, config.work)
        else:
            with tempfile.TemporaryDirectory() as folder:
                _series(config, Path(folder))
    elif config.step == "prepare":
        start_s = time.perf_counter()
        CONTENDERS[config.contenders][0](config.case())
        print(json.dumps({"prepare_s": round(time.perf_counter() - start_s, 1)}))
    elif config.step == "run":
        print(json.dumps(_run_one(config)))
    else:
        print(json.dumps(_ceilings(config)))


def _run_one(config: UNetCpuConfig) -> dict[str, Any]:
    """Times, error and memory of one contender, in this process."""
    name, case = config.contenders, config.case()
    start_s = time.perf_counter()
    call = CONTENDERS[name][1](case)
    load_s = time.perf_counter() - start_s
    inputs = case.spec("fp32").sample({"batch": config.batch}, seed=0)
    noise = call(inputs).float().contiguous()
    stored = case.work / f"reference-{config.batch}.safetensors"
    if name == REFERENCE:
        save_file({"noise": noise}, stored)
    found = measure.times_ms(lambda: call(inputs), CPU, num_warmup=config.num_warmup, num_runs=config.num_runs)
    return {
        "times_ms": [round(value, 3) for value in found],
        "relative_error": float(f"{relative_error(noise, load_file(stored)['noise']):.3e}"),
        "load_s": round(load_s, 2),
        "peak_memory_gib": round(measure.peak_memory_bytes(CPU) / 2**30, 2),
    }


def _ceilings(config: UNetCpuConfig) -> dict[str, Any]:
    """The machine's fastest matrix products, and the work of one call."""
    inputs = published.spec_of(config.size, "unet", "fp32", _one(config)).sample({"batch": config.batch}, seed=0)
    return {
        "matmul_peak_gflops": {
            "fp32": measure.matmul_peak_gflops(torch.float32, CPU),
            "bf16": measure.matmul_peak_gflops(torch.bfloat16, CPU),
        },
        "call_gflop": round(measure.count_flop(published.make(config.size, "unet"), inputs.values()) / 1e9, 3),
    }


def _one(config: UNetCpuConfig) -> AxisRange:
    return AxisRange(minimum=config.batch, optimum=config.batch, maximum=config.batch)


def _series(config: UNetCpuConfig, work: Path) -> None:
    """All contenders in processes of their own, and the result."""
    names = [REFERENCE, *(name for name in CONTENDERS if name in config.contenders.split(",") and name != REFERENCE)]
    started = measure.machine(CPU)
    ceilings = _child(config, work, "peak", REFERENCE)
    results: dict[str, dict[str, Any]] = {}
    for round_index in range(config.rounds):
        for name in names:
            if "failed" in results.get(name, {}):
                continue
            try:
                prepared = _child(config, work, "prepare", name)
                found = _child(config, work, "run", name)
            except ChildError as error:
                results[name] = {"failed": str(error)}
                print(f"{name:<20} failed: {error}", file=sys.stderr)
                continue
            earlier = results.get(name, {"times_ms": [], "prepare_s": prepared["prepare_s"]})
            results[name] = {**earlier, **found, "times_ms": earlier["times_ms"] + found["times_ms"]}
            print(_line(name, results[name], ceilings, round_index), file=sys.stderr, flush=True)
    for result in results.values():
        if "failed" not in result:
            result |= measure.summary(result["times_ms"])
            result["gflops"] = round(1e3 * ceilings["call_gflop"] / result["median_ms"], 1)
    answer = {
        "benchmark": "unet_cpu",
        "command": ["python", "bench/unet_cpu.py", *_words(config)],
        "size": config.size,
        "batch": config.batch,
        "machine": started,
        **ceilings,
        "results": results,
        "fastest": min(
            (name for name in results if "failed" not in results[name]), key=lambda name: results[name]["median_ms"]
        ),
    }
    if config.record is not None:
        files.write_json(config.record, answer)
    print(json.dumps(answer))


def _line(name: str, result: dict[str, Any], ceilings: dict[str, Any], round_index: int) -> str:
    found = measure.summary(result["times_ms"])
    gflops = 1e3 * ceilings["call_gflop"] / found["median_ms"]
    peak = ceilings["matmul_peak_gflops"]["bf16" if "bf16" in name else "fp32"]
    return (
        f"{name:<20} round {round_index + 1}: median {found['median_ms']:10.1f} ms "
        f"({found['min_ms']:.1f} to {found['max_ms']:.1f}), {gflops:7.1f} GFLOP/s of {peak:.1f} measured peak, "
        f"error {result['relative_error']:.1e}, {result['peak_memory_gib']:.1f} GiB"
    )


class ChildError(RuntimeError):
    """A contender's process failed; the message is the last line that it wrote."""


def _child(config: UNetCpuConfig, work: Path, step: Step, contender: str) -> dict[str, Any]:
    """What a process of its own answers for one step."""
    words = ["--size", config.size, "--batch", config.batch, "--num-warmup", config.num_warmup]
    words += ["--num-runs", config.num_runs, "--work", work, "--step", step, "--contenders", contender]
    line = [sys.executable, str(Path(__file__).resolve()), *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode != 0:
        # 137 and -9: the kernel ends what takes more memory than there is.
        said = [text for text in done.stderr.splitlines() if text.strip()] or [f"exit code {done.returncode}"]
        raise ChildError(f"{said[-1].strip()} (exit code {done.returncode})")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _words(config: UNetCpuConfig) -> list[str]:
    """The options that make the measurement again."""
    words = ["--size", config.size, "--batch", config.batch, "--rounds", config.rounds, "--contenders"]
    return [
        str(word)
        for word in (*words, config.contenders, "--num-warmup", config.num_warmup, "--num-runs", config.num_runs)
    ]


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(UNetCpuConfig, main, prog="bench/unet_cpu.py", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
