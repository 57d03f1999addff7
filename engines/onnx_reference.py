"""An ONNX file as a module on the CPU, through ONNX Runtime: the reference where no PyTorch module is at hand."""

from pathlib import Path

import onnxruntime
import torch
from torch import nn

from synthclone.engines.spec import DTYPES, EngineSpec


class OnnxReference(nn.Module):
    """Called as the component's module is: the spec's inputs in order, as positional tensors; returns fp32."""

    def __init__(self, path: Path, spec: EngineSpec) -> None:
        super().__init__()
        self.spec = spec
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        feeds = {
            item.name: value.to(DTYPES[item.dtype]).numpy()
            for item, value in zip(self.spec.inputs, values, strict=True)
        }
        (output,) = self.session.run([self.spec.outputs[0].name], feeds)
        return torch.from_numpy(output).float()
