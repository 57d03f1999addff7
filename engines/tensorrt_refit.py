"""New weights for a built engine, without a rebuild; and the old ones back.

    refit(folder, weights)   weights: an ONNX file of the same graph (a fine-tuned checkpoint, exported the same way), or
                             safetensors with some of its initialisers by name

The engine must have been built refittable. The new plan is checked before it replaces the old one, and the manifest
names the new weights, so that no later step takes it for the original.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorrt as trt
import torch
from safetensors import safe_open

from synthclone.engines import artifact, files, onnx_digest, parity
from synthclone.engines.artifact import EngineError
from synthclone.engines.backend import Runtime
from synthclone.engines.device_stream import make_lane
from synthclone.engines.onnx_reference import OnnxReference
from synthclone.engines.spec import DTYPES, EngineSpec
from synthclone.engines.tensorrt_backend import load
from synthclone.engines.tensorrt_build import DATA_TYPES
from synthclone.engines.tensorrt_errors import Logger, Recorder, failure
from synthclone.engines.tensorrt_plan import OpenPlan, apply_refit, open_plan, refit_from_onnx, restore_weights


def refit(folder: Path, weights: Path, *, device: torch.device, out: Path | None = None) -> dict[str, Any]:
    """Put other weights into an engine; returns the new manifest.

    Args:
        folder: a finished TensorRT engine that was built refittable.
        weights: `.onnx` or `.safetensors`.
        device: where the engine runs.
        out: folder of the new engine; None replaces the old one.

    Raises:
        EngineError: the engine cannot be refitted, or not with these weights; nothing is changed then.
    """
    manifest = artifact.read_manifest(folder)
    if manifest["backend"] != "tensorrt":
        raise EngineError(f"{folder} is an engine of {manifest['backend']}; only those of tensorrt can be refitted")
    artifact.check(folder, manifest, device)
    notes = files.read_json(folder / "tensorrt.json")
    if not notes["refittable"]:
        raise EngineError(
            f"{folder} was not built refittable; build it again with `{manifest['rebuild']}` and the option refittable"
        )
    if not weights.is_file():
        raise ValueError(f"{weights} does not exist; give an .onnx or .safetensors file")
    spec, target = EngineSpec.from_json(manifest["spec"]), out or folder
    with make_lane(device).selected():
        opened = open_plan(folder, spec, trust_plan=True)
        if weights.suffix == ".safetensors":  # which may name but some of the weights
            restore_weights(opened.engine, folder, spec)
        source = _exchange(opened.engine, weights, spec, notes)
        plan = _serialize(opened, spec)
    del opened
    identity = {name: manifest[name] for name in artifact.IDENTITY} | {"source": source}
    with artifact.unfinished(target) as part:
        files.write_bytes(part / "plan.trt", plan)
        files.write_json(part / "tensorrt.json", notes | {"stripped": False})
        extra = {
            "parity": _check(part, spec, weights, manifest["precision"], device),
            "build_seconds": manifest["build_seconds"],
            "rebuild": manifest["rebuild"],
            "refit": {"weights": str(weights.resolve()), "from": manifest["key"]},
        }
        return artifact.finish(part, target, identity, extra)


def _exchange(engine: trt.ICudaEngine, weights: Path, spec: EngineSpec, notes: Mapping[str, Any]) -> dict[str, str]:
    """Refit from a file; returns the source digests of what the engine then holds."""
    if weights.suffix == ".safetensors":
        _refit_from_safetensors(engine, weights, spec)
        return {**notes["source"], "weights": files.sha256(weights)}
    if weights.suffix != ".onnx":
        raise ValueError(f"{weights} is neither .onnx nor .safetensors; export the checkpoint first")
    if onnx_digest.graph_digest(weights) != notes["graph"]:
        raise EngineError(
            f"{weights} has another graph than engine {spec.name} was built from, so its weights do not fit; export it "
            "with the same precision, sizes and versions, or build an engine of its own"
        )
    refit_from_onnx(engine, weights, spec)
    digest = onnx_digest.weights_digest(weights)
    return dict(notes["source"]) if digest == notes["weights"] else {**notes["source"], "weights": digest}


def _refit_from_safetensors(engine: trt.ICudaEngine, path: Path, spec: EngineSpec) -> None:
    logger, recorder = Logger(), Recorder()
    refitter = trt.Refitter(engine, logger)
    refitter.error_recorder = recorder
    names = set(refitter.get_all_weights())
    dtypes = {DTYPES[name]: getattr(trt.DataType, kind) for name, kind in DATA_TYPES.items()}
    held = []  # TensorRT reads them when the refit is applied
    with safe_open(path, framework="pt") as tensors:
        for name in sorted(tensors.keys()):
            if name not in names:
                raise EngineError(f"{path}: engine {spec.name} has no weights {name!r}; it has {_some(names)}")
            value = tensors.get_tensor(name).contiguous()
            prototype: trt.Weights = refitter.get_weights_prototype(name)
            if dtypes.get(value.dtype) != prototype.dtype or value.numel() != prototype.size:
                raise EngineError(
                    f"{path}: {name} holds {value.numel()} values of {value.dtype}, but engine {spec.name} takes "
                    f"{prototype.size} of {prototype.dtype.name}"
                )
            held.append(value)
            new = trt.Weights(prototype.dtype, value.data_ptr(), value.numel())
            if not refitter.set_named_weights(name, new):
                raise failure(spec, f"refuses the weights {name}", recorder)
    apply_refit(refitter, recorder, spec)


def _serialize(opened: OpenPlan, spec: EngineSpec) -> bytes:
    """The plan with its weights, to be refitted again."""
    config: trt.ISerializationConfig = opened.engine.create_serialization_config()
    config.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    if hasattr(trt.SerializationFlag, "INCLUDE_REFIT"):  # since 10.14; before, a plan stayed refittable by itself
        config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
    plan: trt.IHostMemory | None = opened.engine.serialize_with_config(config)
    if plan is None:
        raise failure(spec, "cannot be saved", opened.recorder)
    return bytes(plan)


def _check(part: Path, spec: EngineSpec, weights: Path, precision: Any, device: torch.device) -> dict[str, float]:
    """The parity gate at the smallest sizes, against the new ONNX file on the CPU; partial weights have none."""
    engine = load(part, spec, device, lambda config: torch.nn.Identity(), Runtime(trust_plan=True))
    if weights.suffix == ".onnx":
        return parity.check(engine, OnnxReference(weights, spec), precision, points=("minimum",))
    sizes = spec.sizes("minimum")
    output = engine(**{name: value.to(device) for name, value in spec.sample(sizes, seed=0).items()})
    if not torch.isfinite(output).all():
        raise parity.ParityError(
            f"engine {spec.name} gives NaN or Inf with the weights of {weights}; nothing is changed"
        )
    return {}


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
