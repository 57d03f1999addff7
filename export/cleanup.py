"""Cleans up an exported graph: constants folded, dead nodes, identities and repeated work gone, all in this process.

The exporter folds what it can; it leaves each group normalisation to ask for the same shapes anew, which is what
common sub-expressions are about. No weights are copied.
"""

import onnx_ir
from onnx_ir.passes import common
from onnxscript import optimizer


def clean_up(model: onnx_ir.Model) -> None:
    """Simplify in place; what the graph computes stays the same."""
    optimizer.optimize(model)
    passes = onnx_ir.passes.Sequential(
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
    )
    passes(model)
