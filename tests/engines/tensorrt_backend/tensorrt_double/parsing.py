"""ONNX parser and its errors, and the refitters of the double."""

import ctypes

import numpy
import onnx
from google.protobuf.message import DecodeError

from tensorrt_double import graph
from tensorrt_double.base import STATE, ILogger, Reporting, typed
from tensorrt_double.building import INetworkDefinition
from tensorrt_double.enumerations import DataType, ErrorCode, ErrorCodeTRT
from tensorrt_double.running import ICudaEngine

NUMPY_TYPES = {DataType.FLOAT: numpy.float32, DataType.HALF: numpy.float16}


class ParserError:
    def __init__(self, code, desc, node=-1, name="", operator=""):
        self._values = (code, desc, node, name, operator)

    def code(self):
        return self._values[0]

    def desc(self):
        return self._values[1]

    def node(self):
        return self._values[2]

    def node_name(self):
        return self._values[3]

    def node_operator(self):
        return self._values[4]


class _Parser:
    """What both parsers do with errors."""

    def __init__(self, logger):
        typed(logger, ILogger)
        self._errors = []

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]

    def clear_errors(self):
        self._errors = []

    def _load(self, path):
        try:
            return onnx.load(path)
        except (DecodeError, OSError, ValueError) as error:
            self._errors.append(ParserError(ErrorCode.MODEL_DESERIALIZE_FAILED, f"Failed to parse {path}: {error}"))
            return None


class OnnxParser(_Parser):
    def __init__(self, network, logger):
        super().__init__(logger)
        self._network = typed(network, INetworkDefinition)

    def parse_from_file(self, model):
        loaded = self._load(model)
        if loaded is None:
            return False
        for index, node in enumerate(loaded.graph.node):
            if node.op_type in STATE.unsupported:
                text = f"No importer registered for op: {node.op_type}"
                self._errors.append(ParserError(ErrorCode.UNSUPPORTED_NODE, text, index, node.name, node.op_type))
        self._network._model = loaded
        return not self._errors


class Weights:
    def __init__(self, type=DataType.FLOAT, ptr=0, count=0):
        kind = numpy.dtype(NUMPY_TYPES[type])
        buffer = (ctypes.c_byte * (count * kind.itemsize)).from_address(ptr)
        self._array = numpy.frombuffer(buffer, dtype=kind)  # no copy: the caller keeps the memory alive
        self.dtype, self.size = type, count


class Refitter(Reporting):
    def __init__(self, engine, logger):
        super().__init__(logger)
        self._engine, self._pending = typed(engine, ICudaEngine), {}
        if not engine.refittable:
            # What pybind raises for a null pointer from the library.
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def get_all_weights(self):
        return [name for name, array in graph.weights(self._engine._model).items() if graph.is_weight(array)]

    def get_missing_weights(self):
        if not self._engine._header["stripped"] or self._engine._restored:
            return []
        return [name for name in self.get_all_weights() if name not in self._pending]

    def get_weights_prototype(self, weights_name):
        array = graph.weights(self._engine._model)[weights_name]
        kept = numpy.ascontiguousarray(array)
        kinds = {numpy.dtype(kind): name for name, kind in NUMPY_TYPES.items()}
        prototype = Weights(kinds[kept.dtype], kept.ctypes.data, kept.size)
        prototype._kept = kept
        return prototype

    def set_named_weights(self, name, weights):
        expected = graph.weights(self._engine._model).get(name)
        if expected is None or expected.size != typed(weights, Weights).size:
            self._report(ErrorCodeTRT.INVALID_ARGUMENT, f"{name}: no weights of that name and count")
            return False
        self._pending[name] = weights._array.reshape(expected.shape)
        return True

    def refit_cuda_engine(self):
        if self.get_missing_weights():
            self._report(ErrorCodeTRT.INVALID_STATE, "weights are missing")
            return False
        self._engine._refit({name: array.copy() for name, array in self._pending.items()})
        return True


class OnnxParserRefitter(_Parser):
    def __init__(self, refitter, logger):
        super().__init__(logger)
        self._refitter = typed(refitter, Refitter)

    def refit_from_file(self, model):
        loaded = self._load(model)
        if loaded is None:
            return False
        given, engine = graph.weights(loaded), self._refitter._engine
        for name, array in graph.weights(engine._model).items():
            if not graph.is_weight(array):
                continue
            if name not in given or given[name].shape != array.shape or given[name].dtype != array.dtype:
                text = f"{name} is missing or of another shape or type"
                self._errors.append(ParserError(ErrorCode.REFIT_FAILED, text, 0, name))
                return False
            self._refitter._pending[name] = given[name]
        return True
