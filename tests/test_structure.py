"""The house rules that a machine can check: import arrows, file names, sizes, and modules that do no work on import."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("engines", "export", "gen", "train", "eval", "bench", "synthclone")
SOURCES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def imported_modules(path: Path) -> list[str]:
    """Every module that a file imports, wherever the import stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def arrows_up(floor: str, modules: list[str]) -> list[str]:
    """The imports that run to a higher floor, or that name a folder as if it were a package of its own."""
    wrong = []
    for module in modules:
        parts = module.split(".")
        if parts[0] in FLOORS[:-1]:
            wrong.append(module)
        if parts[0] == "synthclone" and len(parts) > 1:
            target = parts[1] if parts[1] in FLOORS else "synthclone"
            if FLOORS.index(target) > FLOORS.index(floor):
                wrong.append(module)
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_runs_up(path):
    assert arrows_up(path.relative_to(ROOT).parts[0], imported_modules(path)) == []


def test_the_arrow_check_sees_what_it_should():
    assert arrows_up("engines", ["synthclone.gen.plan"]) == ["synthclone.gen.plan"]
    assert arrows_up("gen", ["engines.spec"]) == ["engines.spec"]
    assert arrows_up("train", ["synthclone.report"]) == ["synthclone.report"]
    assert arrows_up("train", ["synthclone.gen.shards", "synthclone.engines", "torch"]) == []


def test_no_file_bears_the_name_of_another_module():
    """`python export/build.py` puts `export/` first on the path, so that `export/onnx.py` would hide the real one."""
    tops = {
        name.partition("/")[0].removesuffix(".py")
        for distribution in metadata.distributions()
        if distribution.metadata["Name"] != "synthclone"
        for name in (distribution.read_text("top_level.txt") or "").split() or [distribution.metadata["Name"]]
    }
    taken = {name.replace("-", "_").lower() for name in tops} | set(sys.stdlib_module_names)
    own = {path.stem for path in SOURCES if path.stem != "__init__"}
    assert own & taken == set()


def test_package_files_are_empty_and_files_are_short():
    for path in SOURCES:
        lines = len(path.read_text().splitlines())
        assert lines == 0 if path.name == "__init__.py" else lines <= 300, f"{path} has {lines} lines"
    counts = sorted(len(path.read_text().splitlines()) for path in SOURCES if path.name != "__init__.py")
    assert counts[len(counts) // 2] < 150


def test_every_file_opens_with_a_docstring():
    for path in SOURCES:
        if path.name != "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("module", ["synthclone.cli", "synthclone.engines.spec", "synthclone.gen.plan"])
def test_light_modules_stay_light(module):
    """The command's help and the plan answer without loading diffusers, DALI, DeepSpeed or ONNX Runtime."""
    code = f"import {module}, sys; print([m for m in ('diffusers', 'transformers', 'nvidia.dali', 'deepspeed', 'onnxruntime') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
