"""Runtime, engine and execution context of the double: ONNX Runtime on the very addresses that were bound."""

import ctypes

import numpy
import onnx
import onnxruntime

from tensorrt_double import graph
from tensorrt_double.base import STATE, Dims, Reporting, typed
from tensorrt_double.enumerations import (
    ErrorCodeTRT,
    ExecutionContextAllocationStrategy,
    SerializationFlag,
    TensorIOMode,
)

ALIGNMENT_BYTES = 64  # what PyTorch's CPU allocator gives; 256 on a GPU


class Runtime(Reporting):
    def __init__(self, logger):
        super().__init__(logger)
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine):
        decoded = graph.decode(bytes(serialized_engine))
        if isinstance(decoded, str):
            self._report(ErrorCodeTRT.INVALID_ARGUMENT, decoded)
            return None
        header, model = decoded
        if header["version_compatible"] and not self.engine_host_code_allowed:
            self._report(ErrorCodeTRT.INVALID_STATE, "the plan holds host code, which is not allowed")
            return None
        return ICudaEngine(self._logger, header, model)


class ISerializationConfig:
    def __init__(self, flags):
        self._flags = flags

    def set_flag(self, flag):
        self._flags.add(typed(flag, SerializationFlag))
        return True

    def clear_flag(self, flag):
        self._flags.discard(typed(flag, SerializationFlag))
        return True


class ICudaEngine(Reporting):
    def __init__(self, logger, header, model):
        super().__init__(logger)
        self._header, self._model, self._restored = header, model, False
        self._values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
        self._shapes = {}

    @property
    def _session(self):
        if self.__dict__.get("_made_session") is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._made_session = onnxruntime.InferenceSession(
                self._model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        return self._made_session

    def _refit(self, arrays):
        self._model = graph.with_weights(self._model, {**graph.weights(self._model), **arrays})
        self._made_session, self._restored = None, True

    def _output_shape(self, name, shapes):
        """The shape of an output at given shapes of the inputs, from a run with zeros."""
        key = (name, *sorted(shapes.items()))
        if key not in self._shapes:
            feeds = {}
            for value in self._model.graph.input:
                kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                feeds[value.name] = numpy.zeros(shapes[value.name], kind)
            self._shapes[key] = Dims(self._session.run([name], feeds)[0].shape)
        return self._shapes[key]

    @property
    def device_memory_size_v2(self):
        return max(self._header["scratch_bytes"])

    @property
    def num_optimization_profiles(self):
        return len(self._header["profiles"])

    @property
    def num_io_tensors(self):
        return len(self._values)

    @property
    def refittable(self):
        return self._header["refittable"] or self._header["stripped"]

    def get_tensor_name(self, index):
        return list(self._values)[index]

    def get_tensor_mode(self, name):
        inputs = [value.name for value in self._model.graph.input]
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return graph.data_type(self._values[name])

    def get_tensor_shape(self, name):
        return graph.shape(self._values[name])

    def get_tensor_profile_shape(self, name, profile_index):
        return [Dims(shape) for shape in self._header["profiles"][profile_index][name]]

    def create_execution_context(self, strategy=ExecutionContextAllocationStrategy.STATIC):
        STATE.contexts_made += 1
        return IExecutionContext(self, typed(strategy, ExecutionContextAllocationStrategy))

    def create_serialization_config(self):
        return ISerializationConfig({SerializationFlag.EXCLUDE_WEIGHTS} if self._header["stripped"] else set())

    def serialize_with_config(self, arg0):
        flags = typed(arg0, ISerializationConfig)._flags
        assert SerializationFlag.EXCLUDE_WEIGHTS not in flags, "not modelled"
        keeps = SerializationFlag.INCLUDE_REFIT in flags and self._header["refittable"]
        return graph.encode({**self._header, "stripped": False, "refittable": keeps}, self._model)


class IExecutionContext(Reporting):
    def __init__(self, engine, strategy):
        super().__init__(engine._logger)
        self._engine, self._strategy = engine, strategy
        self._profile, self._shapes, self._addresses, self._memory = 0, {}, {}, (0, 0)
        self._changes, self._launched_at, self._frozen_at = 0, None, None

    def _changed(self):
        self._changes += 1

    def set_optimization_profile_async(self, profile_index, stream_handle):
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            self._report(ErrorCodeTRT.INVALID_ARGUMENT, f"no profile {profile_index}")
            return False
        self._profile, self._shapes = profile_index, {}
        self._changed()
        return True

    def set_input_shape(self, name, shape):
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            self._report(ErrorCodeTRT.INVALID_ARGUMENT, f"{name} {tuple(shape)} is outside profile {low} to {high}")
            return False
        self._shapes[name] = tuple(shape)
        self._changed()
        return True

    def infer_shapes(self):
        return [value.name for value in self._engine._model.graph.input if value.name not in self._shapes]

    def get_tensor_shape(self, name):
        if name in self._shapes:
            return Dims(self._shapes[name])
        return self._engine._output_shape(name, self._shapes)

    def set_tensor_address(self, name, memory):
        if name not in self._engine._values or memory % ALIGNMENT_BYTES or not memory:
            self._report(
                ErrorCodeTRT.INVALID_ARGUMENT, f"{name}: address {memory:#x} is not aligned, or no such tensor"
            )
            return False
        self._addresses[name] = int(memory)
        self._changed()
        return True

    def set_device_memory(self, memory, size):
        self._memory = (int(memory), int(size))
        self._changed()

    def execute_async_v3(self, stream_handle):
        needed = self._engine._header["scratch_bytes"][self._profile]
        if self.infer_shapes() or set(self._addresses) != set(self._engine._values):
            self._report(ErrorCodeTRT.INVALID_STATE, "not all input shapes and tensor addresses are set")
            return False
        if self._strategy is ExecutionContextAllocationStrategy.USER_MANAGED and self._memory[1] < needed:
            self._report(ErrorCodeTRT.INVALID_STATE, f"device memory {self._memory[1]} is smaller than {needed}")
            return False
        if STATE.capturing is None:
            self._execute(dict(self._shapes), dict(self._addresses), self._memory)
            self._launched_at = self._changes
            return True
        if self._launched_at != self._changes:
            self._report(ErrorCodeTRT.INVALID_STATE, "capture needs one enqueue after the last change")
            return False
        frozen = (dict(self._shapes), dict(self._addresses), self._memory)
        captured_at = self._changes

        def replay():
            if self._changes != captured_at:
                STATE.unlike.append("a captured graph ran after its context was changed")
            self._execute(*frozen)

        STATE.capturing.append(replay)
        return True

    def _execute(self, shapes, addresses, memory):
        STATE.launches += 1
        ctypes.memset(memory[0], 0xAB, memory[1])  # scratch is not kept: whoever reads it reads this
        session = self._engine._session
        binding = session.io_binding()
        for value in self._engine._model.graph.input:
            kind = value.type.tensor_type.elem_type
            binding.bind_input(value.name, "cpu", 0, kind, shapes[value.name], addresses[value.name])
        outputs = [value.name for value in self._engine._model.graph.output]
        for name in outputs:
            binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        for name, result in zip(outputs, binding.get_outputs(), strict=True):
            ctypes.memmove(addresses[name], result.data_ptr(), result.tensor_size_in_bytes())
