"""Builds a TensorRT plan from an ONNX file: parse, profiles, configuration, build.

Networks are strongly typed, so precision is what the graph says (TensorRT 11 has no precision flags). Running the plan
is left to `tensorrt_runtime.py`, and everything around the plan to `artifact.py`.
"""

from collections.abc import Mapping
from pathlib import Path

import tensorrt as trt

from synthclone.engines import tensorrt_timing as timing
from synthclone.engines.artifact import EngineError
from synthclone.engines.spec import AxisRange, EngineSpec, TensorSpec
from synthclone.engines.tensorrt_errors import Logger, Recorder, failure, parser_errors
from synthclone.engines.tensorrt_options import TensorRTOptions
from synthclone.engines.tensorrt_progress import Progress, interruptible

DATA_TYPES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int64": "INT64", "int32": "INT32", "uint8": "UINT8"}


def build_plan(
    spec: EngineSpec, onnx: Path, options: TensorRTOptions, cache: Path, device: Mapping[str, str]
) -> trt.IHostMemory:
    """The plan's bytes.

    Args:
        spec: signature and ranges.
        onnx: the exported graph, with its weights beside it.
        options: how to build.
        cache: the timing cache's file; read and written.
        device: identity of the current GPU.

    Raises:
        EngineError: TensorRT cannot parse or build it; the message has TensorRT's reasons.
        KeyboardInterrupt: Ctrl-C during the build, after TensorRT has come to a clean end.
    """
    logger, recorder = Logger(), Recorder()
    builder = make_builder(logger)
    builder.error_recorder = recorder
    network: trt.INetworkDefinition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)  # owns the weights: must live until the build has ended
    if not parser.parse_from_file(str(onnx)):
        raise EngineError(f"TensorRT cannot parse {onnx}: {parser_errors(parser)}")
    check_signature(spec, network, onnx)
    config: trt.IBuilderConfig = builder.create_builder_config()
    configure(config, options)
    for ranges in profile_ranges(spec, options):
        add_profile(builder, config, spec, ranges, recorder)
    timing.attach(config, cache, device)
    progress = Progress(spec.name)
    config.progress_monitor = progress
    with interruptible(progress):
        plan: trt.IHostMemory | None = builder.build_serialized_network(network, config)
        timing.save(config, cache, device)  # after Ctrl-C too: what has been timed need not be timed again
    if plan is None:
        raise failure(spec, "cannot be built", recorder)
    return plan


def make_builder(logger: trt.ILogger) -> trt.Builder:
    """TensorRT's builder on the current GPU.

    Raises:
        EngineError: TensorRT finds no GPU or not all of its libraries.
    """
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # what its bindings raise when the library returns nothing
        raise EngineError(
            f"TensorRT {trt.__version__} cannot start here ({error}); check that nvidia-smi lists a GPU and that its "
            "driver is new enough for this TensorRT, or use --backend onnxruntime"
        ) from error


def check_signature(spec: EngineSpec, network: trt.INetworkDefinition, onnx: Path) -> None:
    """Hold the parsed network's inputs and outputs against the spec.

    Raises:
        EngineError: a name, type or axis differs; a baked-in batch is the usual case.
    """
    for kind, declared, tensors in (
        ("input", spec.inputs, [network.get_input(index) for index in range(network.num_inputs)]),
        ("output", spec.outputs, [network.get_output(index) for index in range(network.num_outputs)]),
    ):
        names = sorted(tensor.name for tensor in tensors)
        if names != sorted(item.name for item in declared):
            expected = ", ".join(item.name for item in declared)
            raise EngineError(f"{onnx} has {kind}s {', '.join(names)}, but engine {spec.name} declares {expected}")
        by_name = {tensor.name: tensor for tensor in tensors}
        for item in declared:
            check_tensor(spec, item, by_name[item.name], onnx)


def check_tensor(spec: EngineSpec, item: TensorSpec, tensor: trt.ITensor, onnx: Path) -> None:
    """Hold one tensor's type and shape against the spec; TensorRT gives -1 for a dynamic axis."""
    if tensor.dtype != getattr(trt.DataType, DATA_TYPES[item.dtype]):
        raise EngineError(
            f"{onnx}: {item.name} is {tensor.dtype.name}, but engine {spec.name} declares {item.dtype}; "
            "export the component in the precision that it is to run in"
        )
    shape = tuple(tensor.shape)
    dynamic_outputs = not tensor.is_network_input  # their shapes are inferred, and may stay open
    fits = len(shape) == len(item.axes) and all(
        size == -1 if isinstance(axis, str) else size == axis or (size == -1 and dynamic_outputs)
        for axis, size in zip(item.axes, shape, strict=True)
    )
    if not fits:
        raise EngineError(
            f"{onnx}: {item.name} has shape {shape}, but engine {spec.name} declares {item.axes}; export it with these "
            "axes dynamic, and a sample of batch 2 (a sample of batch 1 fixes the batch)"
        )


def configure(config: trt.IBuilderConfig, options: TensorRTOptions) -> None:
    """Everything that does not depend on shapes."""
    config.builder_optimization_level = options.optimization_level
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    level = options.hardware_compatibility.upper()
    if not hasattr(trt.HardwareCompatibilityLevel, level):  # SAME_COMPUTE_CAPABILITY is not in early 10.x
        raise ValueError(
            f"hardware_compatibility {options.hardware_compatibility!r} is not in TensorRT {trt.__version__}; "
            "choose none or ampere_plus"
        )
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    for flag, wanted in (
        (trt.BuilderFlag.TF32, options.tf32),
        (trt.BuilderFlag.REFIT, options.refittable),
        (trt.BuilderFlag.STRIP_PLAN, options.strip_weights),
        (trt.BuilderFlag.VERSION_COMPATIBLE, options.version_compatible),
    ):
        if wanted:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)


def profile_ranges(spec: EngineSpec, options: TensorRTOptions) -> list[dict[str, AxisRange]]:
    """The ranges of each optimisation profile: the whole range first, then the parts to tune for.

    Raises:
        ValueError: a part reaches outside the batch range.
    """
    whole, profiles = spec.ranges["batch"], [dict(spec.ranges)]
    for text in options.batch_profiles:
        part = AxisRange.parse(text)
        if part.minimum < whole.minimum or part.maximum > whole.maximum:
            raise ValueError(f"batch profile {part} is outside the engine's --batch {whole}; widen that, or drop this")
        profiles.append({**spec.ranges, "batch": part})
    return profiles


def add_profile(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    spec: EngineSpec,
    ranges: Mapping[str, AxisRange],
    recorder: Recorder,
) -> None:
    """Add one optimisation profile: the smallest, usual and largest shape of each input."""
    profile: trt.IOptimizationProfile = builder.create_optimization_profile()
    for item in spec.inputs:
        shapes = [
            item.shape({axis: getattr(size, which) for axis, size in ranges.items()})
            for which in ("minimum", "optimum", "maximum")
        ]
        profile.set_shape(item.name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise failure(spec, f"has ranges that TensorRT refuses ({ {a: str(r) for a, r in ranges.items()} })", recorder)
