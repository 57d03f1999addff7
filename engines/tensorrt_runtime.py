"""Runs a TensorRT plan: addresses in, launches on the lane's stream, never a wait of the host.

An engine has one execution context for each optimisation profile that is in use; with CUDA graphs, one for each set of
sizes, because a captured graph holds its context's state (TensorRT developer guide, "CUDA graphs"). Contexts bring no
scratch memory of their own: they take the lane's block, which the engines on that lane share.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import tensorrt as trt
import torch

from synthclone.engines.artifact import EngineError
from synthclone.engines.device_stream import Lane
from synthclone.engines.spec import DTYPES, EngineSpec
from synthclone.engines.tensorrt_errors import failure, out_of_memory
from synthclone.engines.tensorrt_plan import OpenPlan

GRAPHS_KEPT = 8
"""Sets of sizes for which a captured graph is kept; the one not used for longest makes room."""


@dataclass(kw_only=True)
class Call:
    """An execution context, and what it was last told."""

    context: trt.IExecutionContext
    sizes: Mapping[str, int] | None = None
    block: torch.Tensor | None = None
    buffers: Mapping[str, torch.Tensor] | None = None
    """Inputs and output of a captured call, at addresses that stay."""
    replay: Callable[[], None] | None = None


class TensorRTEngine:
    """A deserialised plan behind the engine interface."""

    def __init__(
        self,
        plan: OpenPlan,
        spec: EngineSpec,
        lane: Lane,
        *,
        cuda_graphs: bool = False,
    ) -> None:
        """
        Args:
            plan: the opened plan, whose weights are in place.
            spec: signature and ranges.
            lane: stream and scratch memory.
            cuda_graphs: capture a call for each set of sizes and replay it.
        """
        self.spec, self.device = spec, lane.device
        self._plan, self._recorder, self._lane, self._cuda_graphs = plan, plan.recorder, lane, cuda_graphs
        self._scratch_bytes: int = max(int(plan.engine.device_memory_size_v2), lane.alignment_bytes)
        self._profiles = [self._profile_ranges(index) for index in range(plan.engine.num_optimization_profiles)]
        self._calls: dict[int, Call] = {}
        self._captured: OrderedDict[tuple[int, ...], Call] = OrderedDict()
        self._outputs: dict[tuple[int, ...], torch.Tensor] = {}

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Run once; the output is a new tensor.

        Raises:
            ValueError: inputs do not fit the spec, or lie on another device.
            EngineError: TensorRT fails; out of memory names the range to lower.
        """
        return self._run(inputs, reuse_output=False)

    def step(self, **inputs: torch.Tensor) -> torch.Tensor:
        """As a call, but the output is this engine's own buffer, valid until the next call with the same sizes.

        For loops that consume it at once, such as a sampler's.
        """
        return self._run(inputs, reuse_output=True)

    def _run(self, inputs: Mapping[str, torch.Tensor], *, reuse_output: bool) -> torch.Tensor:
        sizes = self.spec.check(inputs)
        for name, value in inputs.items():
            if value.device != self.device:
                raise ValueError(
                    f"engine {self.spec.name} runs on {self.device}, but {name} is on {value.device}; move it there first"
                )
        try:
            # Outside the turn, so that it belongs to the caller's stream like any tensor of the caller's.
            output = self._kept_output(sizes) if reuse_output else self._empty_output(sizes)
            with self._lane.turn():
                if self._cuda_graphs:
                    call = self._captured_call(sizes, inputs)
                    assert call.buffers is not None and call.replay is not None
                    call.replay()
                    output.copy_(call.buffers[self.spec.outputs[0].name])
                else:
                    self._launch(self._call_for(sizes), sizes, {**inputs, self.spec.outputs[0].name: output})
        except torch.OutOfMemoryError as error:
            raise out_of_memory(self.spec, f"cannot run at {_text(sizes)}", str(error).split(". ")[0]) from error
        return output

    def _launch(self, call: Call, sizes: Mapping[str, int], tensors: Mapping[str, torch.Tensor]) -> None:
        """Tell the context what has changed, and queue one execution."""
        context, doing = call.context, f"cannot run at {_text(sizes)}"
        block = self._lane.block(self._scratch_bytes)
        if block is not call.block:
            context.set_device_memory(block.data_ptr(), block.numel())
            call.block = block
        if sizes != call.sizes:
            for item in self.spec.inputs:
                if not context.set_input_shape(item.name, item.shape(sizes)):
                    raise failure(self.spec, doing, self._recorder)
            if missing := context.infer_shapes():
                raise failure(self.spec, f"{doing} (shapes of {', '.join(missing)} are not known)", self._recorder)
            for item in self.spec.outputs:  # TensorRT would write past the end of a buffer that is too small
                if (shape := tuple(context.get_tensor_shape(item.name))) != item.shape(sizes):
                    raise EngineError(
                        f"engine {self.spec.name} gives {item.name} of shape {shape} at {_text(sizes)}, but declares "
                        f"{item.shape(sizes)}; build it again from the component that the declaration is of"
                    )
            call.sizes = dict(sizes)
        held = [self._addressable(value) for value in tensors.values()]
        for name, value in zip(tensors, held, strict=True):
            if not context.set_tensor_address(name, value.data_ptr()):
                raise failure(self.spec, doing, self._recorder)
        if not context.execute_async_v3(self._lane.handle):
            call.sizes = None
            raise failure(self.spec, doing, self._recorder)

    def _captured_call(self, sizes: Mapping[str, int], inputs: Mapping[str, torch.Tensor]) -> Call:
        """The captured call of these sizes with its inputs filled in; captured now if it is new."""
        key = tuple(sizes.values())
        call = self._captured.get(key)
        if call is not None and call.block is not self._lane.block(self._scratch_bytes):
            call = None  # a larger engine has moved the block, whose old address is in the graph
        if call is None:
            call = self._new_call(sizes)
            call.buffers = {
                item.name: torch.empty(item.shape(sizes), dtype=DTYPES[item.dtype], device=self.device)
                for item in (*self.spec.inputs, *self.spec.outputs)
            }
        assert call.buffers is not None
        for name, value in inputs.items():
            call.buffers[name].copy_(value)
        if call.replay is None:
            self._capture(call, sizes, key)
        self._captured.move_to_end(key)
        return call

    def _capture(self, call: Call, sizes: Mapping[str, int], key: tuple[int, ...]) -> None:
        assert call.buffers is not None
        self._launch(call, sizes, call.buffers)  # the first launch with new shapes does work that cannot be captured

        def queue() -> None:
            if not call.context.execute_async_v3(self._lane.handle):
                raise failure(self.spec, f"cannot be captured at {_text(sizes)}", self._recorder)

        call.replay = self._lane.capture(queue)
        if key in self._captured or len(self._captured) == GRAPHS_KEPT:
            self._lane.drain()  # a graph may be destroyed only when it no longer runs
            self._captured.pop(key if key in self._captured else next(iter(self._captured)))
        self._captured[key] = call

    def _call_for(self, sizes: Mapping[str, int]) -> Call:
        index = self._profile_for(sizes)
        if index not in self._calls:
            self._calls[index] = self._new_call(sizes)
        return self._calls[index]

    def _new_call(self, sizes: Mapping[str, int]) -> Call:
        """A context with the profile of these sizes."""
        context = self._plan.engine.create_execution_context(
            strategy=trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise failure(self.spec, "cannot make an execution context", self._recorder)
        context.error_recorder = self._recorder
        if not context.set_optimization_profile_async(self._profile_for(sizes), self._lane.handle):
            raise failure(self.spec, f"has no profile for {_text(sizes)}", self._recorder)
        return Call(context=context)

    def _profile_ranges(self, index: int) -> dict[str, tuple[int, int]]:
        """The smallest and largest size of each dynamic axis in a profile of the plan."""
        ranges = {}
        for item in self.spec.inputs:
            smallest, _, largest = self._plan.engine.get_tensor_profile_shape(item.name, index)
            for axis, low, high in zip(item.axes, smallest, largest, strict=True):
                if isinstance(axis, str):
                    ranges[axis] = (low, high)
        return ranges

    def _profile_for(self, sizes: Mapping[str, int]) -> int:
        """The narrowest profile that takes these sizes; the first holds the whole range."""

        def takes(ranges: Mapping[str, tuple[int, int]]) -> bool:
            return all(low <= sizes[axis] <= high for axis, (low, high) in ranges.items())

        def width(index: int) -> int:
            return sum(high - low for low, high in self._profiles[index].values())

        return min((index for index, ranges in enumerate(self._profiles) if takes(ranges)), key=width, default=0)

    def _addressable(self, value: torch.Tensor) -> torch.Tensor:
        """The tensor, or a copy where it has gaps or begins at an address that TensorRT does not take (a slice)."""
        value = value.contiguous()
        return value.clone() if value.data_ptr() % self._lane.alignment_bytes else value

    def _empty_output(self, sizes: Mapping[str, int]) -> torch.Tensor:
        item = self.spec.outputs[0]
        return torch.empty(item.shape(sizes), dtype=DTYPES[item.dtype], device=self.device)

    def _kept_output(self, sizes: Mapping[str, int]) -> torch.Tensor:
        key = tuple(sizes.values())
        if key not in self._outputs:
            self._outputs[key] = self._empty_output(sizes)
        return self._outputs[key]


def _text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items())
