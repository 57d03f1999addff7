"""Which ONNX operators TensorRT's parser takes, so that a graph with another is refused with the node's name.

The list is data: `data/tensorrt_operators.tsv`, from the parser's published support matrix at opsets 9 to 20.
"""

import csv
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path

import onnx

from synthclone.engines.artifact import EngineError

MAX_OPSET = 20
STANDARD_DOMAINS = ("", "ai.onnx")


@cache
def supported_operators() -> dict[str, tuple[str, ...]]:
    """Operator name to the types that it is taken with; an unsupported operator is not in it."""
    text = resources.files("synthclone.engines").joinpath("data/tensorrt_operators.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader((line for line in text.splitlines() if not line.startswith("#")), delimiter="\t")
    return {row["operator"]: tuple(row["types"].split()) for row in rows}


def check_operators(path: Path) -> None:
    """Hold every node of an ONNX file, those of sub-graphs and local functions too, against TensorRT's list.

    Raises:
        EngineError: an operator or opset that TensorRT's parser does not take; the message names operator and node.
    """
    model = onnx.load(str(path), load_external_data=False)
    opsets = {item.domain: item.version for item in model.opset_import}
    opset = max(opsets.get(domain, 0) for domain in STANDARD_DOMAINS)
    if opset > MAX_OPSET:
        raise EngineError(f"{path} is at opset {opset}, but TensorRT takes opsets up to {MAX_OPSET}; export it again")
    local = {(function.domain, function.name) for function in model.functions}
    known = supported_operators()
    refused = [
        f"{node.domain + '::' if node.domain else ''}{node.op_type} at node {node.name or node.output[0]}"
        for nodes in (model.graph.node, *(function.node for function in model.functions))
        for node in _walk(nodes)
        if (node.domain, node.op_type) not in local
        and (node.domain not in STANDARD_DOMAINS or node.op_type not in known)
    ]
    if refused:
        shown = "; ".join(refused[:5]) + (f"; and {len(refused) - 5} more" if len(refused) > 5 else "")
        raise EngineError(
            f"{path} has operators that TensorRT does not take: {shown}; "
            "export the component without them, or use --backend onnxruntime"
        )


def _walk(nodes: object) -> Iterator[onnx.NodeProto]:
    for node in nodes:  # type: ignore[attr-defined]
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _walk(graph.node)
