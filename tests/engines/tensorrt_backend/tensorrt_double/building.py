"""Builder, configuration, profiles and timing cache of the double."""

import json
from math import prod

from tensorrt_double import graph
from tensorrt_double.base import STATE, Dims, IHostMemory, IProgressMonitor, Reporting, into_python, typed
from tensorrt_double.enumerations import (
    BuilderFlag,
    ErrorCodeTRT,
    HardwareCompatibilityLevel,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
)


class ITensor:
    def __init__(self, value, is_input):
        self.name, self.is_network_input = value.name, is_input
        self.dtype, self.shape = graph.data_type(value), graph.shape(value)


class INetworkDefinition:
    def __init__(self, strongly_typed):
        self._strongly_typed, self._model = strongly_typed, None

    @property
    def num_inputs(self):
        return len(self._model.graph.input)

    @property
    def num_outputs(self):
        return len(self._model.graph.output)

    def get_input(self, index):
        return ITensor(self._model.graph.input[index], True)

    def get_output(self, index):
        return ITensor(self._model.graph.output[index], False)


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        if not all(low <= middle <= high for low, middle, high in zip(min, opt, max, strict=True)):
            raise ValueError("Shape provided for min, opt and max is inconsistent")
        self._shapes[typed(input, str)] = [Dims(min), Dims(opt), Dims(max)]


class ITimingCache:
    def __init__(self, entries):
        self._entries = entries

    def serialize(self):
        return IHostMemory(b"timings" + json.dumps(self._entries).encode())

    def combine(self, input_cache, ignore_mismatch):
        self._entries.update(typed(input_cache, ITimingCache)._entries)
        return True


class IBuilderConfig:
    def __init__(self, reporting):
        self._reporting, self._flags, self._profiles = reporting, {BuilderFlag.TF32}, []
        self._cache, self._workspace_bytes = None, None
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.progress_monitor = None

    def set_flag(self, flag):
        self._flags.add(typed(flag, BuilderFlag))

    def clear_flag(self, flag):
        self._flags.discard(typed(flag, BuilderFlag))

    def set_memory_pool_limit(self, pool, pool_size):
        assert typed(pool, MemoryPoolType) is MemoryPoolType.WORKSPACE
        self._workspace_bytes = int(pool_size)

    def add_optimization_profile(self, profile):
        self._profiles.append(typed(profile, IOptimizationProfile))
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        data = bytes(serialized_timing_cache)
        if data and not data.startswith(b"timings"):
            self._reporting._report(ErrorCodeTRT.INVALID_ARGUMENT, "timing cache header is invalid")
            return None
        return ITimingCache(json.loads(data[7:]) if data else {})

    def set_timing_cache(self, cache, ignore_mismatch):
        self._cache = typed(cache, ITimingCache)
        return True

    def get_timing_cache(self):
        return self._cache


class Builder(Reporting):
    def __init__(self, logger):
        super().__init__(logger)

    def create_network(self, flags=0):
        return INetworkDefinition(bool(flags >> NetworkDefinitionCreationFlag.STRONGLY_TYPED & 1))

    def create_builder_config(self):
        return IBuilderConfig(self)

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        STATE.builds += 1
        STATE.last_config = config
        model = typed(network, INetworkDefinition)._model
        assert model is not None and network._strongly_typed
        for value in model.graph.input:
            for profile in config._profiles:
                if not self._fits(graph.shape(value), profile._shapes.get(value.name)):
                    self._report(ErrorCodeTRT.INVALID_ARGUMENT, f"{value.name}: profile does not fit the network")
                    return None
        sizes = [scratch_bytes(model, profile._shapes) for profile in config._profiles]
        workspace_bytes = config._workspace_bytes or STATE.gpu_bytes
        if max(sizes) > min(workspace_bytes, STATE.gpu_bytes):
            self._report(
                ErrorCodeTRT.FAILED_ALLOCATION, f"Requested amount of GPU memory ({max(sizes)} bytes) was not available"
            )
            return None
        if not self._time_kernels(model, config):
            self._report(ErrorCodeTRT.INVALID_STATE, "the build was cancelled by its progress monitor")
            return None
        stripped = BuilderFlag.STRIP_PLAN in config._flags
        arrays = graph.weights(model)
        header = {
            "profiles": [profile._shapes for profile in config._profiles],
            "scratch_bytes": sizes,
            "refittable": BuilderFlag.REFIT in config._flags,
            "stripped": stripped,
            "version_compatible": BuilderFlag.VERSION_COMPATIBLE in config._flags,
            "hardware": int(config.hardware_compatibility_level),
        }
        if stripped:
            arrays = {name: array * 0 if graph.is_weight(array) else array for name, array in arrays.items()}
        return graph.encode(header, graph.with_weights(model, arrays))

    @staticmethod
    def _fits(declared, shapes):
        return shapes is not None and all(
            len(declared) == len(given)
            and all(size in (-1, other) for size, other in zip(declared, given, strict=True))
            for given in shapes
        )

    @staticmethod
    def _time_kernels(model, config):
        """Times each node unless the cache knows it; False when the monitor says stop."""
        monitor = config.progress_monitor
        assert monitor is None or typed(monitor, IProgressMonitor)._base_ready
        nodes, going = list(model.graph.node), True
        phases = [("Building", None, 1), ("Timing kernels", "Building", len(nodes))]
        for phase in phases if monitor else []:
            into_python(monitor.phase_start, *phase)
        for step, node in enumerate(nodes):
            key = f"{node.op_type} {node.name}"
            if key not in config._cache._entries:
                STATE.kernels_timed += 1
                config._cache._entries[key] = 1.0
            if STATE.on_step is not None:
                STATE.on_step("Timing kernels", step)
            if monitor and not into_python(monitor.step_complete, "Timing kernels", step):
                going = False
                break
        for name, *_ in reversed(phases) if monitor else []:
            into_python(monitor.phase_finish, name)
        return going


def scratch_bytes(model, shapes) -> int:
    """What an execution with a profile is said to need: four times its largest inputs."""
    types = {value.name: graph.data_type(value) for value in model.graph.input}
    return 4 * sum(prod(largest) * graph.ITEM_BYTES[types[name]] for name, (_, _, largest) in shapes.items())
