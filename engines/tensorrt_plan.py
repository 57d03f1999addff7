"""Opens a plan file, and holds what is in it against the spec; fills in weights that a stripped plan lacks."""

from dataclasses import dataclass
from pathlib import Path

import tensorrt as trt

from synthclone.engines import files, onnx_digest
from synthclone.engines.artifact import EngineError
from synthclone.engines.spec import EngineSpec
from synthclone.engines.tensorrt_build import DATA_TYPES
from synthclone.engines.tensorrt_errors import Logger, Recorder, failure, parser_errors


@dataclass(frozen=True, kw_only=True)
class OpenPlan:
    """A deserialised engine with what it needs to stay alive."""

    engine: trt.ICudaEngine
    recorder: Recorder
    """Where TensorRT reports the engine's errors."""
    runtime: trt.Runtime
    logger: Logger


def open_plan(folder: Path, spec: EngineSpec, *, trust_plan: bool) -> OpenPlan:
    """The engine in `plan.trt`, on the current GPU.

    Raises:
        EngineError: TensorRT refuses the plan, or its inputs and outputs are not the spec's.
    """
    logger, recorder = Logger(), Recorder()
    try:
        runtime = trt.Runtime(logger)
    except (TypeError, RuntimeError) as error:  # what its bindings raise when the library returns nothing
        raise EngineError(
            f"TensorRT {trt.__version__} cannot start here ({error}); check that nvidia-smi lists a GPU"
        ) from error
    runtime.error_recorder = recorder
    runtime.engine_host_code_allowed = trust_plan
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine((folder / "plan.trt").read_bytes())
    if engine is None:
        raise failure(
            spec,
            "cannot be loaded (the plan is damaged, or of another GPU or TensorRT, or carries code of its own, "
            "which needs Runtime(trust_plan=True))",
            recorder,
        )
    engine.error_recorder = recorder
    check_engine(engine, spec)
    return OpenPlan(engine=engine, recorder=recorder, runtime=runtime, logger=logger)


def check_engine(engine: trt.ICudaEngine, spec: EngineSpec) -> None:
    """Hold a plan's tensors against the spec.

    Raises:
        EngineError: other names, directions or types.
    """
    found = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        found[name] = (engine.get_tensor_mode(name), engine.get_tensor_dtype(name), len(engine.get_tensor_shape(name)))
    expected = {
        item.name: (mode, getattr(trt.DataType, DATA_TYPES[item.dtype]), len(item.axes))
        for mode, items in ((trt.TensorIOMode.INPUT, spec.inputs), (trt.TensorIOMode.OUTPUT, spec.outputs))
        for item in items
    }
    if found != expected:
        shown = {name: f"{mode.name} {dtype.name} rank {rank}" for name, (mode, dtype, rank) in found.items()}
        raise EngineError(f"the plan has tensors {shown}, which are not those of engine {spec.name}")


def restore_weights(engine: trt.ICudaEngine, folder: Path, spec: EngineSpec) -> None:
    """Give a plan that was built without weights the weights of its ONNX file; other plans are left as they are.

    Raises:
        EngineError: the file is gone, or its weights are not the ones that the engine was built for.
    """
    notes = files.read_json(folder / "tensorrt.json")
    if not notes["stripped"]:
        return
    onnx = (folder.parent / notes["onnx"]).resolve()
    if not onnx.is_file():
        raise EngineError(f"the plan holds no weights, and the ONNX file to take them from is gone: {onnx}")
    if onnx_digest.weights_digest(onnx) != notes["weights"]:
        raise EngineError(f"the plan holds no weights, and those in {onnx} are not the ones that it was built for")
    refit_from_onnx(engine, onnx, spec)


def refit_from_onnx(engine: trt.ICudaEngine, onnx: Path, spec: EngineSpec) -> None:
    """Replace the engine's weights by those of an ONNX file with the same graph.

    Raises:
        EngineError: TensorRT refuses; the message says why.
    """
    logger, recorder = Logger(), Recorder()
    refitter = trt.Refitter(engine, logger)
    refitter.error_recorder = recorder
    parser = trt.OnnxParserRefitter(refitter, logger)  # owns the new weights: must live until they are in the engine
    if not parser.refit_from_file(str(onnx)):
        raise EngineError(f"engine {spec.name} cannot take the weights of {onnx}: {parser_errors(parser)}")
    apply_refit(refitter, recorder, spec)


def apply_refit(refitter: trt.Refitter, recorder: Recorder, spec: EngineSpec) -> None:
    """Put the weights that the refitter was given into its engine."""
    if missing := refitter.get_missing_weights():
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise EngineError(f"engine {spec.name}: weights {', '.join(missing[:5])}{more} are missing from the new ones")
    if not refitter.refit_cuda_engine():
        raise failure(spec, "cannot take new weights", recorder)
