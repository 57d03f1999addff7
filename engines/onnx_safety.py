"""Where an ONNX file takes its weights from: only files that lie beside it.

A graph names the files of its external weights. A graph from elsewhere could name any file of the machine, so the names
are held against the graph's own folder before a runtime follows them.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx


def check_external_data(path: Path) -> None:
    """Hold the locations of external weights against the model's folder; no weights are read.

    Raises:
        ValueError: a location is absolute, leaves the folder, or is a symbolic link; the message names it.
    """
    model = onnx.load(str(path), load_external_data=False)
    for location in sorted({_location(tensor) for tensor in _tensors(model)} - {""}):
        if reason := _reason(path.parent, location):
            raise ValueError(
                f"{path} takes weights from {location!r}, which {reason}; "
                "external weights must be plain files beside the graph, such as model.onnx.data: export it again"
            )


def _reason(folder: Path, location: str) -> str | None:
    """What is wrong with a location, or None."""
    # Both spellings on every system: a file made here may be opened on the other.
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or location.startswith("\\"):
        return "is an absolute path"
    parts = PureWindowsPath(location).parts
    if ".." in parts:
        return "leaves the model's folder"
    steps = [folder.joinpath(*parts[: count + 1]) for count in range(len(parts))]
    return "is a symbolic link" if any(step.is_symlink() for step in steps) else None


def _location(tensor: onnx.TensorProto) -> str:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return ""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor: of the graph, its sub-graphs, its local functions and its training part."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_tensors(graph)
