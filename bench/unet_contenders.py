"""The ways to run one U-Net on a CPU that `unet_cpu.py` sets side by side: each is `prepare` and `load`.

`prepare` writes what takes long and is not part of a step (exported graph, compiled package) into the work folder, and
may find it there; `load` gives a callable of fp32 inputs that returns the noise.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synthclone.bench import published
from synthclone.engines import backend, files
from synthclone.engines.backend import Runtime, Source
from synthclone.engines.spec import DTYPES, AxisRange, EngineSpec, Precision
from synthclone.export import graph

Tensors = dict[str, torch.Tensor]
Run = Callable[[Tensors], torch.Tensor]
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What all contenders run."""

    size: published.Size
    batch: int
    work: Path

    def spec(self, precision: Precision, *, fixed: bool = False) -> EngineSpec:
        """The U-Net's signature, for one batch only or for 1 up to four times the measured one."""
        most = self.batch if fixed else 4 * self.batch
        sizes = AxisRange(minimum=self.batch if fixed else 1, optimum=self.batch, maximum=most)
        return published.spec_of(self.size, "unet", precision, sizes)

    def module(self, precision: Precision = "fp32", *, channels_last: bool = False) -> nn.Module:
        """The U-Net, the same weights every time."""
        module = published.make(self.size, "unet").to(DTYPES[precision])
        return module.to(memory_format=torch.channels_last) if channels_last else module


def _nothing(case: Case) -> None:
    """Nothing to prepare."""


def _module_run(module: Any, precision: Precision, *, channels_last: bool) -> Run:
    @torch.inference_mode()
    def run(inputs: Tensors) -> torch.Tensor:
        latent, text = (inputs[name].to(DTYPES[precision]) for name in ("latent", "text"))
        if channels_last:
            latent = latent.to(memory_format=torch.channels_last)
        return module(latent, inputs["timestep"], text)

    return run


def _eager_fp32(case: Case) -> Run:
    return _module_run(case.module(), "fp32", channels_last=False)


def _eager_bf16(case: Case) -> Run:
    return _module_run(case.module("bf16", channels_last=True), "bf16", channels_last=True)


def _compile_bf16(case: Case) -> Run:
    compiled = torch.compile(case.module("bf16", channels_last=True))
    return _module_run(compiled, "bf16", channels_last=True)


def _export(case: Case) -> None:
    folder = case.work / "onnx"
    if not (folder / "model.onnx").is_file():
        request = graph.GraphRequest(spec=case.spec("fp32"), precision="fp32", checkpoint_key="random")
        graph.export_onnx(case.module(), request, folder)
        (folder / "options.json").write_text(json.dumps({}))


def _engine_run(engine: backend.Engine, precision: Precision) -> Run:
    def run(inputs: Tensors) -> torch.Tensor:
        casted = {name: inputs[name].to(DTYPES[precision]) for name in ("latent", "text")}
        return engine(**casted, timestep=inputs["timestep"])

    return run


def _onnxruntime(case: Case) -> Run:
    module, spec = backend.find("onnxruntime"), case.spec("fp32")
    return _engine_run(module.load(case.work / "onnx", spec, CPU, lambda config: nn.Identity(), Runtime()), "fp32")


def _openvino(precision: Precision) -> Callable[[Case], Run]:
    def load(case: Case) -> Run:
        try:
            import openvino
        except ImportError as error:
            raise ValueError("contender needs openvino; install it with `pip install openvino`") from error
        core = openvino.Core()
        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        }
        compiled = core.compile_model(str(case.work / "onnx" / "model.onnx"), "CPU", hints)

        def run(inputs: Tensors) -> torch.Tensor:
            found = compiled({name: value.numpy() for name, value in inputs.items()})
            return torch.from_numpy(found[compiled.output(0)])

        return run

    return load


def _compile_package(precision: Precision, *, fixed: bool) -> Callable[[Case], None]:
    def prepare(case: Case) -> None:
        folder = _package(case, precision, fixed=fixed)
        if (folder / "done.json").is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        module, spec = case.module(precision), case.spec(precision, fixed=fixed)
        source = Source(
            module=module,
            config={},
            precision=precision,
            program=lambda device: graph.compiler_program(module, spec, device),
        )
        inductor = backend.find("inductor")
        inductor.build(spec, source, folder, CPU, inductor.Options())
        files.write_json(folder / "done.json", inductor.versions())

    return prepare


def _inductor(precision: Precision, *, fixed: bool) -> Callable[[Case], Run]:
    def load(case: Case) -> Run:
        folder, spec = _package(case, precision, fixed=fixed), case.spec(precision, fixed=fixed)
        engine = backend.find("inductor").load(folder, spec, CPU, lambda config: nn.Identity(), Runtime())
        return _engine_run(engine, precision)

    return load


def _package(case: Case, precision: Precision, *, fixed: bool) -> Path:
    return case.work / f"inductor-{precision}{'-fixed' if fixed else ''}"


CONTENDERS: dict[str, tuple[Callable[[Case], None], Callable[[Case], Run]]] = {
    "eager_fp32": (_nothing, _eager_fp32),
    "onnxruntime_fp32": (_export, _onnxruntime),
    "openvino_fp32": (_export, _openvino("fp32")),
    "openvino_bf16": (_export, _openvino("bf16")),
    "eager_bf16": (_nothing, _eager_bf16),
    "torch_compile_bf16": (_nothing, _compile_bf16),
    "inductor_bf16": (_compile_package("bf16", fixed=False), _inductor("bf16", fixed=False)),
    "inductor_bf16_fixed": (_compile_package("bf16", fixed=True), _inductor("bf16", fixed=True)),
}
"""Name to what prepares and what loads; `_fixed` is compiled for the measured batch only."""
