"""An ahead-of-time Inductor package: the component compiled by PyTorch to machine code, weights inside, no Python left.

A package runs without the model's Python code and without diffusers; loading it unpickles nothing. It is machine code
all the same: open only packages that you, or someone you trust, have built. It is tied to the PyTorch release and to
the processor's instruction set (Inductor compiles with -march=native), both of which are part of its key.

Building needs a C++ compiler; running does not. What a program is and how it is traced is the caller's matter
(`Source.program`).
"""

import os
import platform
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synthclone.engines import backend as backends
from synthclone.engines.artifact import EngineError
from synthclone.engines.backend import Runtime, Source
from synthclone.engines.spec import EngineSpec

NEEDS_ONNX = False
PLAN = "plan.pt2"
# torch/export/pt2_archive: what a package of nothing but compiled code holds. Programs, weights and sample inputs have
# folders of their own, and torch unpickles parts of those.
HARMLESS = re.compile(r"^[^/]+/(data/aotinductor/model/[^/]+|archive_format|archive_version|byteorder|\.data/[^/]+)$")
PICKLED = (".pt", ".pkl", ".pickle")
# Kernel names for instruction sets, out of the many flags that say other things (mitigations, power, virtualisation).
INSTRUCTIONS = re.compile(
    r"^(sse\w*|ssse3|avx\w*|amx\w*|fma\w*|f16c|bmi[12]|abm|adx|popcnt|movbe|gfni|vaes|vpclmulqdq|sha_ni|clwb"
    r"|asimd\w*|neon|sve\w*|sme2?|bf16|i8mm|fp16|fphp)$"
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How Inductor compiles a component."""

    max_autotune: bool = False
    """Time several kernels for each matrix product and take the fastest: a much longer build."""


class InductorEngine:
    """A loaded package behind the engine interface."""

    def __init__(self, run: Callable[..., Any], spec: EngineSpec, device: torch.device) -> None:
        self.run, self.spec, self.device = run, spec, device

    @torch.inference_mode()
    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        self.spec.check(inputs)
        for name, value in inputs.items():
            if value.device != self.device:
                raise ValueError(f"engine {self.spec.name} runs on {self.device}, but {name} is on {value.device}")
        # Compiled code takes the strides it was traced with for granted.
        output = self.run(*(_plain_layout(inputs[tensor.name]) for tensor in self.spec.inputs))
        return (output[0] if isinstance(output, list | tuple) else output).contiguous()


def _plain_layout(value: torch.Tensor) -> torch.Tensor:
    """Row-major, at an address that vector loads may assume: a view that starts inside another tensor is copied."""
    value = value.contiguous()
    return value if value.data_ptr() % 16 == 0 else value.clone()


def inductor_configs(options: Options, device_type: str) -> dict[str, Any]:
    """What `options` mean to `torch._inductor.config`."""
    configs: dict[str, Any] = {"max_autotune": options.max_autotune}
    if device_type == "cpu":
        # Weights become constants, which lets oneDNN's fused convolutions and prepacked products take them.
        configs["freezing"] = True
        # Otherwise the number of threads of the building machine is compiled in.
        configs["cpp.dynamic_threads"] = True
        configs["max_autotune_gemm_backends"] = "CPP,ATEN"
    return configs


def check_compiler() -> None:
    """Hold that Inductor will find a C++ compiler.

    Raises:
        ValueError: there is none.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ValueError(
            f"backend inductor compiles with {compiler}, which is not on this machine; install g++ "
            "(Debian: `apt install g++`), or name another C++ compiler in the environment variable CXX"
        )


def build(spec: EngineSpec, source: Source, out: Path, device: torch.device, options: Options) -> None:
    """Compile the program into a package.

    Raises:
        ValueError: no C++ compiler, or no program to compile.
    """
    check_compiler()
    if source.program is None:
        raise ValueError(f"engine {spec.name}: backend inductor compiles a torch.export program; give Source.program")
    with torch.no_grad():  # freezing takes weights for constants only where none can be trained
        program = source.program(device)
        configs = inductor_configs(options, device.type)
        torch._inductor.aoti_compile_and_package(program, package_path=str(out / PLAN), inductor_configs=configs)


def load(
    folder: Path, spec: EngineSpec, device: torch.device, make_module: Callable[[Any], nn.Module], runtime: Runtime
) -> InductorEngine:
    """Open a package.

    Raises:
        EngineError: the package is damaged, or holds more than compiled code.
    """
    check_contents(folder / PLAN)
    index = device.index or 0 if device.type == "cuda" else -1
    run = torch._inductor.aoti_load_package(str(folder / PLAN), device_index=index)
    return InductorEngine(run, spec, device)


def check_contents(package: Path) -> None:
    """Hold that a package has nothing in it that torch would unpickle.

    Raises:
        EngineError: it does, or it is no package.
    """
    try:
        with zipfile.ZipFile(package) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise EngineError(f"{package.name} is not a compiled package ({error})") from error
    for name in names:
        if not HARMLESS.match(name) or name.endswith(PICKLED):
            raise EngineError(f"{package.name} holds {name}, which is not compiled code; it is not loaded")


def instruction_sets() -> str:
    """The processor's instruction sets, sorted, in the kernel's names; PyTorch's own summary where there is no list."""
    cpuinfo = Path("/proc/cpuinfo")
    flags: set[str] = set()
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in {"flags", "Features"}:
                flags = {flag for flag in value.split() if INSTRUCTIONS.match(flag)}
                break
    return " ".join(sorted(flags)) or torch.backends.cpu.get_cpu_capability()


def versions() -> dict[str, str]:
    """PyTorch's release with its build, and what the processor can do: a package holds for no other."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "instructions": instruction_sets(),
    }


def mismatch(manifest: Mapping[str, Any], here: Mapping[str, str], device: Mapping[str, str]) -> str | None:
    """Why a package does not run here, or None; of the instruction sets only the difference is told.

    More instructions are as bad as fewer: oneDNN lays weights out for the ones that it found when it packed them.
    """
    built, now = (set(versions["instructions"].split()) for versions in (manifest["versions"], here))
    if manifest["versions"]["machine"] == here["machine"] and built != now:
        sides = [("which this one lacks", built - now), ("which that one lacked", now - built)]
        parts = [f"{', '.join(sorted(names))}, {side}" for side, names in sides if names]
        return f"compiled for a processor of other instruction sets: {'; '.join(parts)}"
    return backends.mismatch(manifest, here, device)
