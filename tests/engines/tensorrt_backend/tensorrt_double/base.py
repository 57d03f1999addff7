"""What a test can set and read of the double, and the interfaces that users of TensorRT implement."""

from dataclasses import dataclass, field
from enum import IntEnum

from tensorrt_double.enumerations import ErrorCodeTRT

VERSION = "11.4.0.106"


@dataclass
class State:
    """The machine that the double pretends to be, and what was seen on it. `reset` before each test."""

    gpu: str = "NVIDIA Double"
    gpu_bytes: int = 1 << 40
    builds: int = 0
    kernels_timed: int = 0
    contexts_made: int = 0
    launches: int = 0
    last_config: object = None
    on_step: object = None
    """Called with (phase, step) in the middle of a build."""
    unsupported: frozenset = frozenset()
    """Operators that the parser refuses."""
    capturing: list | None = None
    """Launches go here instead of being run, while a lane captures."""
    unlike: list = field(default_factory=list)
    """Behaviour that TensorRT leaves undefined, when the backend has run into it."""


STATE = State()


def reset() -> State:
    STATE.__init__()
    return STATE


def typed(value, kind):
    """pybind's check of an argument's type."""
    if not isinstance(value, kind):
        raise TypeError(f"incompatible function arguments: {value!r} is not a {kind.__name__}")
    return value


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self):
        self._base_ready = True

    def log(self, severity, msg):
        raise NotImplementedError


class IErrorRecorder:
    def __init__(self):
        self._base_ready = True

    def num_errors(self):
        raise NotImplementedError

    def get_error_code(self, arg0):
        raise NotImplementedError

    def get_error_desc(self, arg0):
        raise NotImplementedError

    def has_overflowed(self):
        raise NotImplementedError

    def clear(self):
        raise NotImplementedError

    def report_error(self, arg0, arg1):
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self):
        self._base_ready = True

    def phase_start(self, phase_name, parent_phase, num_steps):
        raise NotImplementedError

    def step_complete(self, phase_name, step):
        raise NotImplementedError

    def phase_finish(self, phase_name):
        raise NotImplementedError


class Reporting:
    """What has a logger and an error recorder."""

    def __init__(self, logger):
        self._logger = typed(logger, ILogger)
        assert logger._base_ready, "a subclass of a TensorRT interface must call its __init__"
        self.error_recorder = None

    def _report(self, code: ErrorCodeTRT, description: str) -> None:
        into_python(self._logger.log, ILogger.ERROR, description)
        if self.error_recorder is not None:
            into_python(self.error_recorder.report_error, code, description)


def into_python(function, *arguments):
    """Call what the user implements; TensorRT ends the process when an exception crosses into it."""
    try:
        return function(*arguments)
    except BaseException as error:
        raise SystemError("an exception crossed into TensorRT: terminate called") from error


class IHostMemory(bytearray):
    @property
    def nbytes(self):
        return len(self)


class Dims(tuple):
    __slots__ = ()
