"""The backend and the double use only what TensorRT 11.4 has: held against NVIDIA's real bindings."""

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
from tensorrt_conformance import bindings, signatures
from tensorrt_conformance.walk import Walker
from tensorrt_double import assembled

ROOT = Path(__file__).parents[3]
INTERFACES = {"ILogger", "IErrorRecorder", "IProgressMonitor"}


@pytest.fixture(scope="module")
def api():
    return bindings.read_api()


def backend_files():
    files = [path for folder in ("engines", "export") for path in sorted((ROOT / folder).glob("*.py"))]
    return [path for path in files if "import tensorrt" in path.read_text(encoding="utf-8")]


def walk(api, sources):
    walker = Walker(api)
    trees = {name: ast.parse(source) for name, source in sources.items()}
    for tree in trees.values():
        walker.learn(tree)
    for name, tree in trees.items():
        walker.walk(tree, name)
    return walker


def test_the_bindings_are_those_of_11_4(api):
    assert bindings.NEWEST == "11.4.0.106"
    assert len(api) > 200
    assert "INT64" in api["DataType"]["members"]
    assert "FP16" not in api["BuilderFlag"]["members"]  # gone with strong typing


def test_the_backend_uses_only_what_tensorrt_has(api):
    walker = walk(api, {path.name: path.read_text(encoding="utf-8") for path in backend_files()})
    assert walker.problems == []
    methods = {path for path in walker.used if len(path) == 2}
    assert len(backend_files()) >= 7
    assert len(methods) > 60
    for path in (
        ("Builder", "build_serialized_network"),
        ("IExecutionContext", "execute_async_v3"),
        ("ICudaEngine", "create_execution_context"),
        ("OnnxParserRefitter", "refit_from_file"),
        ("IBuilderConfig", "progress_monitor"),
        ("ITimingCache", "combine"),
        ("Weights", "size"),
    ):
        assert path in methods


@pytest.mark.parametrize("version", [version for version in bindings.PACKAGES if version.startswith("10.")])
def test_tensorrt_10_lacks_only_what_the_backend_asks_for_before_use(version):
    sources = {path.name: path.read_text(encoding="utf-8") for path in backend_files()}
    assert 'hasattr(trt.SerializationFlag, "INCLUDE_REFIT")' in sources["tensorrt_refit.py"]
    problems = [problem.partition(": ")[2] for problem in walk(bindings.read_api(version), sources).problems]
    assert problems == ["TensorRT has no SerializationFlag.INCLUDE_REFIT"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trt.BuilderFlag.FP16", "TensorRT has no BuilderFlag.FP16"),
        ("trt.EXPLICIT_BATCH", "TensorRT has no EXPLICIT_BATCH"),
        ("trt.IExecutionContext.execute_async_v2", "TensorRT has no IExecutionContext.execute_async_v2"),
        ("context.execute_v3(stream_handle=1)", "TensorRT's IExecutionContext has no execute_v3"),
        ("context.execute_async_v3(stream=1)", "IExecutionContext.execute_async_v3 takes (stream_handle)"),
        ("context.execute_async_v3()", "IExecutionContext.execute_async_v3 takes (stream_handle)"),
        ("context.set_tensor_address('x')", "IExecutionContext.set_tensor_address takes (name, memory)"),
        ("context.set_tensor_address('x', 1, 2)", "IExecutionContext.set_tensor_address takes (name, memory)"),
        ("context.set_tensor_address('x', 1, name='x')", "IExecutionContext.set_tensor_address takes"),
        ("context.active_optimization_profile = 1", "IExecutionContext.active_optimization_profile cannot be set"),
        ("trt.ICudaEngine(1)", "TensorRT's ICudaEngine cannot be constructed"),
        ("trt.Refitter(context)", "TensorRT's Refitter.__init__ takes (engine, logger)"),
        ("trt.Builder(None).create_network().mark_input(1)", "TensorRT's INetworkDefinition has no mark_input"),
        ("made = make(1)\nmade.max_batch_size = 1", "TensorRT's Builder has no max_batch_size"),
        ("self.kept.num_bindings", "TensorRT's ICudaEngine has no num_bindings"),
        ("[unknown.set_input_shape('x', s) for unknown in x]", "cannot tell whose set_input_shape this is"),
    ],
)
def test_a_name_or_keyword_that_tensorrt_lacks_is_found(api, line, message):
    good = [
        "def make(level) -> trt.Builder: ...",
        "class User:",
        "    def __init__(self, engine: trt.ICudaEngine): self.kept = engine",
        "    def use(self, context: trt.IExecutionContext, x, s):",
        "        context.execute_async_v3(stream_handle=1)",
        "        self.kept.create_execution_context(strategy=trt.ExecutionContextAllocationStrategy.STATIC)",
    ]
    assert walk(api, {"f.py": "\n".join(good)}).problems == []
    walker = walk(api, {"f.py": "\n".join(good) + "\n" + textwrap.indent(line, " " * 8)})
    assert len(walker.problems) == 1
    assert message in walker.problems[0]


@pytest.mark.parametrize(
    "body",
    [
        "def phase_start(self, phase_name, parent_phase): ...",
        "def phase_begin(self, phase_name, parent_phase, num_steps): ...",
    ],
)
def test_an_interface_that_is_not_wholly_implemented_is_found(api, body):
    rest = "\n    def step_complete(self, phase_name, step): ...\n    def phase_finish(self, phase_name): ...\n"
    source = f"class Monitor(trt.IProgressMonitor):\n    {body}{rest}"
    (problem,) = walk(api, {"f.py": source}).problems
    assert "must have phase_start(phase_name, parent_phase, num_steps)" in problem


def test_names_that_are_made_from_text_exist(api):
    from synthclone.engines.tensorrt_build import DATA_TYPES
    from synthclone.engines.tensorrt_options import HardwareCompatibility

    assert set(DATA_TYPES.values()) <= set(api["DataType"]["members"])
    levels = {name.upper() for name in HardwareCompatibility.__args__}
    assert levels == set(api["HardwareCompatibilityLevel"]["members"])


def double_problems(api, module):
    """Where the double's classes differ from the real ones."""
    problems = []
    for name, item in vars(module).items():
        if name.startswith("__"):
            continue
        if name not in api:
            problems.append(f"{name}: not in TensorRT")
        elif api[name]["kind"] == "enum":
            real = api[name]["members"]
            problems += [f"{name}.{m.name}" for m in item if real.get(m.name) != m.value]
        else:
            problems += class_problems(name, item, api[name]["members"])
    return problems


def class_problems(name, item, real):
    problems = []
    own = [kind for kind in item.__mro__ if kind.__module__.startswith("tensorrt_double")]
    members = {key: value for kind in reversed(own) for key, value in vars(kind).items()}
    for key, value in members.items():
        if key.startswith("_") and not (key == "__init__" and "__init__" in real):
            continue
        if key not in real:
            problems.append(f"{name}.{key}: not in TensorRT")
        elif inspect.isfunction(value):
            given = list(inspect.signature(value).parameters)[1:]
            overloads = [list(found.parameters) for found in signatures.parse(key, real[key].get("doc", ""))]
            constructed = key != "__init__" or overloads  # others come only from TensorRT itself
            if constructed and given not in overloads:
                problems.append(f"{name}.{key}{tuple(given)}: TensorRT takes {overloads}")
        elif isinstance(value, property) and real[key]["kind"] != "property":
            problems.append(f"{name}.{key}: no property in TensorRT")
    for key in set(instance_attributes(own)) - set(real):
        problems.append(f"{name}.{key}: not in TensorRT")
    return problems


def instance_attributes(classes):
    """Public attributes that `__init__` sets."""
    for kind in classes:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(kind)))):
            stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            if stored and isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr[0] != "_":
                yield node.attr


def test_the_double_has_only_what_tensorrt_has(api):
    assert double_problems(api, assembled.make_module()) == []


def test_the_double_has_all_that_the_backend_uses(api):
    module = assembled.make_module()
    walker = walk(api, {path.name: path.read_text(encoding="utf-8") for path in backend_files()})
    attributes = {
        name: set(dir(item)) | set(instance_attributes([k for k in item.__mro__ if "double" in k.__module__]))
        for name, item in vars(module).items()
        if isinstance(item, type)
    }
    missing = [path for path in walker.used if len(path) == 2 and path[1] not in attributes.get(path[0], set())]
    assert missing == []


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("Builder", "class Builder:\n    def build_engine(self): ...", "Builder.build_engine: not in TensorRT"),
        ("Runtime", "class Runtime:\n    def __init__(self, log): ...", "TensorRT takes [['logger']]"),
        ("Binding", "class Binding: ...", "Binding: not in TensorRT"),
        ("DataType", "from enum import IntEnum\nclass DataType(IntEnum):\n    HALF = 2", "DataType.HALF"),
    ],
)
def test_a_double_that_invents_something_is_found(api, tmp_path, monkeypatch, kind, source, message):
    import importlib
    from types import SimpleNamespace

    (tmp_path / "tensorrt_double_wrong.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    wrong = importlib.reload(importlib.import_module("tensorrt_double_wrong"))
    problems = double_problems(api, SimpleNamespace(**{kind: getattr(wrong, kind)}))
    assert len(problems) == 1
    assert message in problems[0]
