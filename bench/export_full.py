"""Exports Stable Diffusion 1.4 at full size (random weights, published configuration) and records time and memory.

    python bench/export_full.py --precision fp16 --record bench/records/export_full.json

Each component is exported in a process of its own, so that the peak memory is its own. What is measured is what
`synthclone build` does before it builds an engine: `torch.export`, ONNX, clean-up, files on disk. Ends with one JSON line.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch

from synthclone.engines import files
from synthclone.engines.command import run
from synthclone.engines.onnx_operators import check_operators
from synthclone.engines.spec import AxisRange, Precision
from synthclone.export import components, graph, single_file
from synthclone.export.checkpoint import Checkpoint
from synthclone.export.graph import Opset


@dataclass(frozen=True, kw_only=True)
class ExportFullConfig:
    """Export Stable Diffusion 1.4 at full size with random weights, and record time and peak memory."""

    precision: Precision = "fp16"
    """Precision of weights and activations."""
    opset: Opset = 20
    """ONNX operator set."""
    record: Path | None = None
    """JSON file for the record; other precisions' records in it stay."""
    component: str | None = None
    """Export this one in this process; left out, each in a process of its own."""


def export_component(name: str, precision: Precision, opset: Opset) -> dict[str, Any]:
    """Export one component; returns what was measured."""
    configs = single_file.published_configs()
    checkpoint = Checkpoint(name="sd1", folder=configs, tokenizer=configs)
    spec = components.engine_specs(checkpoint, precision, AxisRange.parse("1:8:32"))[name]
    start_s = time.perf_counter()
    torch.manual_seed(0)
    module = components.make_module(components.module_config(checkpoint, name)).eval().requires_grad_(False)
    made_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        request = graph.GraphRequest(spec=spec, precision=precision, checkpoint_key="random", opset=opset)
        graph.export_onnx(module, request, Path(folder) / "onnx")
        exported_s = time.perf_counter()
        path = Path(folder) / "onnx" / "model.onnx"
        check_operators(path)
        model = onnx.load(str(path), load_external_data=False)
        data_bytes = sum(item.stat().st_size for item in path.parent.glob("model.onnx*"))
    return {
        "component": name,
        "parameters": sum(value.numel() for value in module.parameters()),
        "nodes": len(model.graph.node),
        "bytes": data_bytes,
        "make_seconds": round(made_s - start_s, 1),
        "export_seconds": round(exported_s - made_s, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux gives KiB
    }


def main(config: ExportFullConfig) -> None:
    """Export, print, record."""
    if config.component is not None:
        valid = components.ENGINES
        if config.component not in valid:
            raise ValueError(f"unknown component {config.component!r}; valid components: {', '.join(valid)}")
        print(json.dumps(export_component(config.component, config.precision, config.opset)))
        return
    words = ["--precision", config.precision, "--opset", str(config.opset)]
    measured = []
    for name in components.ENGINES:
        command = [sys.executable, str(Path(__file__).resolve()), *words, "--component", name]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured.append(json.loads(result.stdout.splitlines()[-1]))
    record = {
        "what": "export of Stable Diffusion 1.4 at 512x512, random weights from its published configuration",
        "command": f"python bench/export_full.py {' '.join(words)}",
        "precision": config.precision,
        "opset": config.opset,
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_average": os.getloadavg()[1],
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxscript", "diffusers", "transformers")},
        "components": measured,
    }
    if config.record is not None:
        kept = files.read_json(config.record) if config.record.is_file() else []
        same = (config.precision, config.opset)
        kept = [row for row in kept if (row["precision"], row["opset"]) != same]
        files.write_json(config.record, [*kept, record])
    print(json.dumps(record))


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(ExportFullConfig, main, prog="bench/export_full.py", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
