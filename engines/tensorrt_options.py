"""What a TensorRT build can be told, and where its plans then run. Needs no TensorRT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from synthclone.engines import backend as backends
from synthclone.engines.spec import AxisRange

HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]
OPTIMIZATION_LEVELS = range(6)


@dataclass(frozen=True, kw_only=True)
class TensorRTOptions:
    """How TensorRT builds an engine. Precision is not among these: it is the ONNX graph's own."""

    workspace_bytes: int | None = None
    """Scratch memory that a kernel may ask for, in bytes; None allows all that the GPU has."""
    optimization_level: int = 3
    """How long TensorRT looks for fast kernels: 0 (minutes) to 5 (hours)."""
    batch_profiles: tuple[str, ...] = ()
    """Parts of the batch range to tune for besides the whole, each MIN:OPT:MAX; a call takes the narrowest that fits."""
    refittable: bool = False
    """Keep the weights exchangeable, for `synthclone refit`; costs some speed, because no kernel is tied to their values."""
    strip_weights: bool = False
    """Leave the weights out of the plan: they are read from the ONNX file when the engine is loaded."""
    version_compatible: bool = False
    """Let later TensorRT releases of the same major version run the plan. It then holds code: load only your own."""
    hardware_compatibility: HardwareCompatibility = "none"
    """GPUs that may run the plan: the building GPU's model, its compute capability, or NVIDIA Ampere and later."""
    tf32: bool = False
    """Round the inputs of fp32 matrix products to TensorFloat-32: faster, with errors of 1e-3 instead of 1e-6."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_profiles", tuple(self.batch_profiles))
        if self.optimization_level not in OPTIMIZATION_LEVELS:
            raise ValueError(f"optimization_level {self.optimization_level} is not one of 0, 1, 2, 3, 4, 5")
        if self.workspace_bytes is not None and self.workspace_bytes <= 0:
            raise ValueError(f"workspace_bytes {self.workspace_bytes} must be positive; leave it out for no limit")
        if self.hardware_compatibility not in get_args(HardwareCompatibility):
            valid = ", ".join(get_args(HardwareCompatibility))
            raise ValueError(f"hardware_compatibility {self.hardware_compatibility!r} is not one of {valid}")
        for text in self.batch_profiles:
            AxisRange.parse(text)


def mismatch(manifest: Mapping[str, Any], versions: Mapping[str, str], device: Mapping[str, str]) -> str | None:
    """Why a plan does not run here, or None; compatible plans leave the build's own place, others never do."""
    options, built = manifest["options"], dict(manifest["device"])
    recorded = dict(manifest["versions"])
    if options["version_compatible"] and _runs_later(recorded["tensorrt"], versions["tensorrt"]):
        recorded = dict(versions)
    level: HardwareCompatibility = options["hardware_compatibility"]
    same_capability = built.get("compute_capability") == device.get("compute_capability")
    if built["type"] == device["type"] and (
        (level == "same_compute_capability" and same_capability)
        or (level == "ampere_plus" and _number(device.get("compute_capability", "0")) >= (8, 0))
    ):
        built = dict(device)
    return backends.mismatch({"versions": recorded, "device": built}, versions, device)


def _runs_later(built: str, here: str) -> bool:
    return _number(built)[0] == _number(here)[0] and _number(built) <= _number(here)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
