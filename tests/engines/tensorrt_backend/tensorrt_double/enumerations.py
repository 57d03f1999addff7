"""TensorRT's enumerations, as far as the backend and this double use them; the conformance test holds them to 11.4."""

from enum import IntEnum


class BuilderFlag(IntEnum):
    REFIT = 4
    TF32 = 6
    VERSION_COMPATIBLE = 12
    STRIP_PLAN = 18


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 0


class SerializationFlag(IntEnum):
    EXCLUDE_WEIGHTS = 0
    INCLUDE_REFIT = 2


class HardwareCompatibilityLevel(IntEnum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    USER_MANAGED = 2


class TensorIOMode(IntEnum):
    INPUT = 1
    OUTPUT = 2


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT32 = 3
    UINT8 = 5
    BF16 = 7
    INT64 = 8


class ErrorCodeTRT(IntEnum):
    SUCCESS = 0
    INTERNAL_ERROR = 2
    INVALID_ARGUMENT = 3
    INVALID_CONFIG = 4
    FAILED_ALLOCATION = 5
    FAILED_INITIALIZATION = 6
    FAILED_EXECUTION = 7
    INVALID_STATE = 9


class ErrorCode(IntEnum):
    MODEL_DESERIALIZE_FAILED = 3
    INVALID_GRAPH = 5
    UNSUPPORTED_NODE = 8
    REFIT_FAILED = 14
