"""The double as one module, to be put into `sys.modules` under the name "tensorrt"."""

from types import ModuleType

from tensorrt_double import base, building, enumerations, parsing, running

NAMES = {
    base: ["ILogger", "IErrorRecorder", "IProgressMonitor", "IHostMemory", "Dims"],
    building: ["Builder", "IBuilderConfig", "INetworkDefinition", "IOptimizationProfile", "ITensor", "ITimingCache"],
    running: ["Runtime", "ICudaEngine", "IExecutionContext", "ISerializationConfig"],
    parsing: ["OnnxParser", "OnnxParserRefitter", "ParserError", "Refitter", "Weights"],
    enumerations: [
        "BuilderFlag", "NetworkDefinitionCreationFlag", "SerializationFlag", "HardwareCompatibilityLevel",
        "MemoryPoolType", "ExecutionContextAllocationStrategy", "TensorIOMode", "DataType", "ErrorCodeTRT", "ErrorCode",
    ],
}  # fmt: skip


def make_module() -> ModuleType:
    """A module `tensorrt` with the double's classes and enumerations."""
    module = ModuleType("tensorrt", __doc__)
    for part, names in NAMES.items():
        for name in names:
            setattr(module, name, getattr(part, name))
    module.__version__ = base.VERSION
    return module
