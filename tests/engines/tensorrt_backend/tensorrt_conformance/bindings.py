"""NVIDIA's real Python bindings, imported without a GPU to read their API: classes, signatures, properties, enums.

The wheels `tensorrt-cuNN-bindings` are fetched from the package index, and linked to empty libraries that are compiled
here: its functions that would make a builder or a runtime get a null pointer, so it serves to look at, not to run. The
result is kept as JSON under `artifacts/tensorrt_bindings/`, which git ignores.

    python tests/engines/tensorrt_backend/tensorrt_conformance/bindings.py    reads them anew, and says where the JSON is
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {
    "11.4.0.106": "tensorrt-cu13-bindings",
    "10.13.3.9": "tensorrt-cu13-bindings",
    "10.3.0": "tensorrt-cu12-bindings",
}
"""Versions that are looked at: the newest, which counts, and older ones that the backend is to work with."""
NEWEST = "11.4.0.106"
ROOT = Path(__file__).parents[4]

# The entry points that the bindings need when they are imported; all give nothing.
EMPTY_LIBRARY = """
#define NOTHING(name) void *name(void) { return 0; }
NOTHING(createInferBuilder_INTERNAL)
NOTHING(createInferRefitter_INTERNAL)
NOTHING(createInferRuntime_INTERNAL)
NOTHING(createNvOnnxParser_INTERNAL)
NOTHING(createNvOnnxParserRefitter_INTERNAL)
NOTHING(getBuilderPluginRegistry)
NOTHING(getPluginRegistry)
NOTHING(initLibNvInferPlugins)
int getNvOnnxParserVersion(void) { return 0; }
"""

# Runs beside the bindings, in a process of its own: prints their API as JSON.
READER = """
import json
import tensorrt_bindings as trt

def describe(value):
    if hasattr(value, "__members__"):
        return {"kind": "enum", "members": {name: int(member) for name, member in value.__members__.items()}}
    if isinstance(value, type):
        members = {name: describe(getattr(value, name)) for name in dir(value) if name == "__init__" or name[0] != "_"}
        return {"kind": "class", "members": members}
    if isinstance(value, property):
        return {"kind": "property", "settable": value.fset is not None}
    if callable(value):
        return {"kind": "method", "doc": value.__doc__ or ""}
    return {"kind": "value"}

names = [name for name in dir(trt) if name[0] != "_" or name == "__version__"]
print(json.dumps({name: describe(getattr(trt, name)) for name in names}))
"""


def read_api(version: str = NEWEST) -> dict:
    """The bindings' API: name to kind, and for classes and enums their members."""
    path = ROOT / "artifacts" / "tensorrt_bindings" / f"api_{version}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            data = _read(Path(folder), version)
            part = Path(folder) / "api.json"
            part.write_text(data, encoding="utf-8")
            part.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def _read(folder: Path, version: str) -> str:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    _run([*pip, f"{PACKAGES[version]}=={version}"])
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    source, libraries = folder / "empty.c", folder / "tensorrt_bindings"
    source.write_text(EMPTY_LIBRARY, encoding="utf-8")
    compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
    major = version.partition(".")[0]
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{major}"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(libraries / library)]
        _run([compiler, *options, str(source)])
    environment = {**os.environ, "PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(libraries)}
    return _run([sys.executable, "-W", "ignore", "-c", READER], environment)


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]} failed: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    for version, package in PACKAGES.items():
        (ROOT / "artifacts" / "tensorrt_bindings" / f"api_{version}.json").unlink(missing_ok=True)
        print(f"{package} {version}: {len(read_api(version))} names, in artifacts/tensorrt_bindings/")
