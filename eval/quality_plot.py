"""The results of `synthclone quality` as a table of text and as bars, one row a class; both from the JSON alone."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthclone.engines.files import write_bytes

COLUMNS = ("fid", "kid", "precision", "recall", "density", "coverage", "clip_score")
PANELS = (
    ("KID, deviation over subsets", ("kid",)),
    ("precision, recall", ("precision", "recall")),
    ("density, coverage", ("density", "coverage")),
)
MOST_ROWS = 40
COLOURS = ("#0b6fb8", "#e08a2e")


def shown_classes(results: Mapping[str, Any], most: int) -> list[str]:
    """All classes, or of many the nearest and the farthest half by KID, nearest first."""
    by_class = results["by_class"]
    order = sorted(by_class, key=lambda key: (by_class[key]["kid"] is None, by_class[key]["kid"]))
    return order if len(order) <= most else order[: most // 2] + order[-(most // 2) :]


def table(results: Mapping[str, Any], most: int = 20) -> str:
    """Metrics as columns, classes as rows, all images last."""
    keys = shown_classes(results, most)
    columns = [name for name in COLUMNS if results["overall"][name] is not None]
    width = max(len(key) for key in [*keys, "class", "all images"])
    lines = [f"{'class':<{width}} {'synthetic':>9} {'real':>9} " + " ".join(f"{name:>10}" for name in columns)]
    for key, row in [*((key, results["by_class"][key]) for key in keys), ("all images", results["overall"])]:
        cells = " ".join(f"{'-' if row[name] is None else format(row[name], '.4g'):>10}" for name in columns)
        lines.append(f"{key:<{width}} {row['num_synthetic']:>9} {row['num_real']:>9} {cells}")
    if len(keys) < len(results["by_class"]):
        lines.append(f"the nearest and farthest {most // 2} of {len(results['by_class'])} classes, by KID")
    return "\n".join(lines)


def draw(results: Mapping[str, Any], path: Path) -> Path:
    """Write the bars as PNG; a dashed line is the value over all images.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f"matplotlib cannot be loaded ({error}); pip install 'synthclone[quality]'") from error
    keys = shown_classes(results, MOST_ROWS)
    panels = [*PANELS, ("CLIP score", ("clip_score",))] if results["clip"] else list(PANELS)
    figure = Figure(figsize=(3.2 * len(panels) + 1.2, 0.3 * len(keys) + 2.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (title, names) in zip(axes, panels, strict=True):
        for i, name in enumerate(names):
            values = [results["by_class"][key][name] or 0 for key in keys]
            thick = 0.8 / len(names)
            places = [row - 0.4 + thick * (i + 0.5) for row in range(len(keys))]
            spread = [results["by_class"][key]["kid_std"] or 0 for key in keys] if name == "kid" else None
            axis.barh(places, values, thick, xerr=spread, color=COLOURS[i], label=name, ecolor="#555555")
            if results["overall"][name] is not None:
                axis.axvline(results["overall"][name], color=COLOURS[i], linestyle="--", linewidth=1)
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, frameon=False)
    axes[0].set_yticks(range(len(keys)), keys)
    axes[0].set_ylim(len(keys) - 0.5, -0.5)
    overall = results["overall"]
    figure.suptitle(
        f"{overall['num_synthetic']:,} synthetic and {overall['num_real']:,} real images; "
        f"{results['num_features']} features of {results['arch']}; dashed: all images"
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())
    return path
