"""PyTorch as it is: the reference that other backends are measured and checked against.

The plan is the component's configuration and its weights in safetensors. The module itself is made by `make_module`,
which the caller brings: this floor knows nothing of diffusion.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from synthclone.engines.backend import NoOptions, Runtime, Source
from synthclone.engines.spec import DTYPES, EngineSpec

NEEDS_ONNX = False
Options = NoOptions


class EagerEngine:
    """A PyTorch module behind the engine interface."""

    def __init__(self, module: nn.Module, spec: EngineSpec, device: torch.device) -> None:
        self.module, self.spec, self.device = module, spec, device

    @torch.inference_mode()
    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        self.spec.check(inputs)
        return self.module(*(inputs[tensor.name] for tensor in self.spec.inputs))


def build(spec: EngineSpec, source: Source, out: Path, device: torch.device, options: NoOptions) -> None:
    """Save configuration and weights."""
    plan = {"config": dict(source.config), "precision": source.precision}
    (out / "module.json").write_text(json.dumps(plan, indent=2))
    save_model(source.module, str(out / "weights.safetensors"))


def load(
    folder: Path, spec: EngineSpec, device: torch.device, make_module: Callable[[Any], nn.Module], runtime: Runtime
) -> EagerEngine:
    """Make the module and fill in its weights."""
    plan = json.loads((folder / "module.json").read_text())
    module = make_module(plan["config"]).to(DTYPES[plan["precision"]])
    load_model(module, str(folder / "weights.safetensors"))
    return EagerEngine(module.to(device).eval().requires_grad_(False), spec, device)


def versions() -> dict[str, str]:
    """PyTorch's version."""
    return {"torch": torch.__version__}
