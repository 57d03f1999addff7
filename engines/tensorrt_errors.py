"""TensorRT's logger, error recorder and parser errors, turned into one readable exception.

TensorRT reports a failure by returning None or False, and says why through objects that it calls, often from threads
of its own. Nothing here raises inside such a call: an exception that crosses into TensorRT ends the process.
"""

import logging

import tensorrt as trt

from synthclone.engines.artifact import EngineError
from synthclone.engines.spec import EngineSpec

log = logging.getLogger("synthclone.tensorrt")
OUT_OF_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "insufficient workspace")


class Logger(trt.ILogger):
    """Passes TensorRT's messages on to Python's logging, under "synthclone.tensorrt"."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.levels = {
            trt.ILogger.INTERNAL_ERROR: logging.ERROR,
            trt.ILogger.ERROR: logging.ERROR,
            trt.ILogger.WARNING: logging.WARNING,
            trt.ILogger.INFO: logging.DEBUG,  # TensorRT's INFO is dozens of lines a build
            trt.ILogger.VERBOSE: logging.NOTSET,
        }

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if level := self.levels.get(severity, logging.WARNING):
            log.log(level, "%s", msg)


class Recorder(trt.IErrorRecorder):
    """Keeps the errors that TensorRT reports, in order."""

    def __init__(self) -> None:
        trt.IErrorRecorder.__init__(self)
        self.errors: list[tuple[trt.ErrorCodeTRT, str]] = []

    def num_errors(self) -> int:
        return len(self.errors)

    def get_error_code(self, arg0: int) -> trt.ErrorCodeTRT:
        return self.errors[arg0][0] if 0 <= arg0 < len(self.errors) else trt.ErrorCodeTRT.SUCCESS

    def get_error_desc(self, arg0: int) -> str:
        return self.errors[arg0][1] if 0 <= arg0 < len(self.errors) else ""

    def has_overflowed(self) -> bool:
        return False

    def clear(self) -> None:
        self.errors = []

    def report_error(self, arg0: trt.ErrorCodeTRT, arg1: str) -> bool:
        self.errors.append((arg0, arg1))
        return True

    def take(self) -> list[tuple[trt.ErrorCodeTRT, str]]:
        """The errors so far, which are then forgotten."""
        errors, self.errors = self.errors, []
        return errors


def failure(spec: EngineSpec, doing: str, recorder: Recorder) -> EngineError:
    """What to raise when TensorRT has reported a failure.

    Args:
        spec: the engine's, whose ranges are named when memory ran out.
        doing: what failed, such as "cannot be built".
        recorder: where TensorRT reported it; cleared.
    """
    errors = recorder.take()
    text = "; ".join(dict.fromkeys(f"{code.name}: {description}" for code, description in errors)) or "no reason given"
    allocation = any(code == trt.ErrorCodeTRT.FAILED_ALLOCATION for code, _ in errors)
    if allocation or any(words in text.lower() for words in OUT_OF_MEMORY):
        return out_of_memory(spec, doing, text)
    return EngineError(f"engine {spec.name} {doing}: {text}")


def out_of_memory(spec: EngineSpec, doing: str, text: str) -> EngineError:
    """What to raise when memory ran out: names the ranges that the demand grows with."""
    ranges = " or ".join(
        f"--{axis.replace('_', '-')} (now {size})" for axis, size in spec.ranges.items() if size.maximum > 1
    )
    mend = f"lower the maximum of {ranges}" if ranges else "free GPU memory"
    return EngineError(f"engine {spec.name} {doing}: out of memory ({text}); {mend}, or use a lower --precision")


def parser_errors(parser: trt.OnnxParser | trt.OnnxParserRefitter) -> str:
    """The parser's errors in one line, each with the node and operator that it is about."""
    texts = []
    for index in range(parser.num_errors):
        error: trt.ParserError = parser.get_error(index)
        where = ""
        if error.node_name() or error.node_operator():
            where = f" at node {error.node_name() or error.node()} (operator {error.node_operator() or 'unknown'})"
        texts.append(f"{error.code().name}{where}: {error.desc()}")
    parser.clear_errors()
    return "; ".join(texts) or "no reason given"
