"""An ONNX graph in two: what hangs on chosen inputs alone, and the rest, which takes the first one's results.

    model.onnx   latent, timestep, text -> noise
    kept.onnx    text -> keys and values of every cross-attention
    rest.onnx    latent, timestep, those keys and values -> noise

Whoever calls the model many times with the same text runs the first part once. The two take their weights from the same
external file, which is neither read nor copied here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

KEPT, REST = "kept.onnx", "rest.onnx"


def split(path: Path, kept: Sequence[str]) -> bool:
    """Write `kept.onnx` and `rest.onnx` beside a model; False, and nothing written, where no node hangs on `kept` alone.

    Args:
        path: the model.
        kept: names of inputs.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False))
    graph = model.graph
    fixed = _only_from(graph, set(kept))
    border = _border(graph, fixed)
    types = {value.name: value for value in (*graph.value_info, *graph.output)}
    if not border or any(name not in types for name in border):
        return False
    between = [types[name] for name in border]
    for name, inputs, outputs in (
        (KEPT, [value for value in graph.input if value.name in kept], between),
        (REST, [*(value for value in graph.input if value.name not in kept), *between], list(graph.output)),
    ):
        path.with_name(name).write_bytes(_part(model, inputs, outputs).SerializeToString())
    return True


def _only_from(graph: GraphProto, kept: set[str]) -> set[str]:
    """Values that hang on some of the kept inputs, and on no other input; nodes are in topological order."""
    sources: dict[str, set[str]] = {value.name: {value.name} for value in graph.input}
    for node in graph.node:
        found = set().union(*(sources.get(name, set()) for name in _read(node)))
        sources |= dict.fromkeys(node.output, found)
    inputs = {value.name for value in graph.input}
    return {name for name, found in sources.items() if found and found <= kept and name not in inputs}


def _border(graph: GraphProto, fixed: set[str]) -> list[str]:
    """Those of the fixed values that others read, in the order of their reading."""
    readers = [name for node in graph.node if node.output[0] not in fixed for name in _read(node)]
    outputs = [value.name for value in graph.output]
    return list(dict.fromkeys(name for name in (*readers, *outputs) if name in fixed))


def _part(model: ModelProto, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> ModelProto:
    """What leads from the inputs to the outputs."""
    wanted, known = {value.name for value in outputs}, {value.name for value in inputs}
    nodes: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if any(name in wanted and name not in known for name in node.output):
            nodes.insert(0, node)
            wanted |= set(_read(node))
    weights = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    part = ModelProto()
    part.CopyFrom(model)
    part.graph.CopyFrom(onnx.helper.make_graph(nodes, model.graph.name, inputs, outputs, weights))
    return part


def _read(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those of its sub-graphs too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)
