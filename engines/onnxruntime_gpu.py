"""ONNX Runtime on a GPU: bound to PyTorch's own memory, on a lane's stream.

Nothing is copied to the host, and the host waits for nothing. With CUDA graphs every set of sizes has fixed addresses, and
ONNX Runtime replays it from its third call on.
"""

from collections.abc import Mapping
from typing import Any

import onnxruntime
import torch

from synthclone.engines.device_stream import Lane
from synthclone.engines.onnxruntime_session import bind_input, bind_output, told_in_one_line
from synthclone.engines.spec import DTYPES, EngineSpec

NO_GRAPH = "-1"  # the graph id that ONNX Runtime takes for "run, and capture nothing"


class GpuEngine:
    """A session behind the engine interface."""

    def __init__(
        self, session: onnxruntime.InferenceSession, spec: EngineSpec, lane: Lane, *, cuda_graphs: bool
    ) -> None:
        self.session, self.spec, self.device, self.lane = session, spec, lane.device, lane
        self.cuda_graphs = cuda_graphs
        self._fixed: dict[tuple[int, ...], tuple[list[torch.Tensor], torch.Tensor, Any, Any]] = {}

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        sizes = self.spec.check(inputs)
        values = [inputs[spec.name].contiguous() for spec in self.spec.inputs]
        if self.cuda_graphs:
            return self._replay(sizes, values)
        # Made outside the lane's turn, so that the memory belongs to the caller's stream.
        output = self._output(sizes)
        binding = self._bind(values, output)
        with self.lane.turn():
            self._run(binding, _run_options(NO_GRAPH))
        return output

    def _replay(self, sizes: Mapping[str, int], values: list[torch.Tensor]) -> torch.Tensor:
        """Run at the addresses that belong to these sizes."""
        key = tuple(sizes.values())
        if key not in self._fixed:
            held, fixed_output = [value.clone() for value in values], self._output(sizes)
            binding = self._bind(held, fixed_output)
            self._fixed[key] = (held, fixed_output, binding, _run_options(str(len(self._fixed) + 1)))
        held, fixed_output, binding, run_options = self._fixed[key]
        output = torch.empty_like(fixed_output)
        with self.lane.turn():
            for fixed, value in zip(held, values, strict=True):
                fixed.copy_(value)
            self._run(binding, run_options)
            output.copy_(fixed_output)
        return output

    def _run(self, binding: Any, options: Any) -> None:
        with told_in_one_line(self.spec.name):
            self.session.run_with_iobinding(binding, options)

    def _output(self, sizes: Mapping[str, int]) -> torch.Tensor:
        spec = self.spec.outputs[0]
        return torch.empty(spec.shape(sizes), dtype=DTYPES[spec.dtype], device=self.device)

    def _bind(self, values: list[torch.Tensor], output: torch.Tensor) -> Any:
        binding = self.session.io_binding()
        for spec, value in zip(self.spec.inputs, values, strict=True):
            bind_input(binding, spec, value)
        bind_output(binding, self.spec.outputs[0], output)
        return binding


def _run_options(graph_id: str) -> Any:
    """Options of one run on a lane. Names: onnxruntime_run_options_config_keys.h."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", graph_id)
    return options
