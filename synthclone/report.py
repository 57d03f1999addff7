"""The quickstart's report: one HTML file with everything in it, made from `results.json` and the images on disk."""

import base64
import html
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthclone.engines import files
from synthclone.gen import shards

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --faint: #66727f; --line: #d8dee5; --paper: #fff; --synthetic: #0b6fb8; --real: #b8560b }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --faint: #98a4b0; --line: #36414c; --paper: #151b21; --synthetic: #58b0ee; --real: #eda05c } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line) }
p.faint, figcaption, .faint { color: var(--faint); font-size: .9rem }
.cards { display: flex; flex-wrap: wrap; gap: 1rem } .card { flex: 1; min-width: 12rem; border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem }
.card b { display: block; font-size: 2.1rem; line-height: 1.2 } .synthetic { color: var(--synthetic) } .real { color: var(--real) }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line) } td.number { text-align: right; font-variant-numeric: tabular-nums }
.bar { height: .7rem; border-radius: .2rem; display: block } .row { display: flex; gap: 2rem; flex-wrap: wrap } figure { margin: 0; flex: 1; min-width: 17rem }
table.confusion td, table.confusion th { text-align: center; padding: .25rem; font-size: .8rem; border: 0 } img { image-rendering: auto; border-radius: .2rem }
td.bars { width: 17% }
td.images { white-space: nowrap } td.images img { width: 44px; height: 44px; margin-right: 2px }
"""
TEST_SETS = {
    "held_out": "Held-out real digits",
    "geometric": "Geometric shift",
    "photometric": "Photometric shift",
}


def write(path: Path, results: Mapping[str, Any], synthetic: Path, real: Path) -> None:
    """Write the report.

    Args:
        path: the HTML file.
        results: content of the quickstart's `results.json`.
        synthetic: data set of generated images.
        real: data set of real training images.
    """
    accuracy = results["accuracy"]
    top1_synthetic, top1_real = results["top1_synthetic"], results["top1_real"]
    body = f"""
<h1>A classifier trained on no real image</h1>
<p class="faint">ResNet-50 trained from scratch on {results["num_synthetic"]:,} synthetic digits, beside the same network
trained on {results["num_real"]:,} real ones; both scored on {results["num_test"]:,} real digits that neither has seen.
Seed {results["seed"]}, {results["seconds"]:.0f} s in all.</p>
<div class="cards">
<div class="card">trained on synthetic images<b class="synthetic">{top1_synthetic:.1%}</b><span class="faint">top-1 on held-out real digits</span></div>
<div class="card">trained on real images<b class="real">{top1_real:.1%}</b><span class="faint">top-1 on held-out real digits</span></div>
<div class="card">synthetic over real<b>{top1_synthetic / max(top1_real, 1e-9):.3f}</b><span class="faint">ratio; 1 means that real images were not needed</span></div>
</div>
<h2>Accuracy, and under shift</h2>{_accuracy_table(accuracy)}
<h2>What the generator made, beside real digits</h2>
<p class="faint">Prompt {html.escape(results["prompt"])}, guidance {results["guidance"]}, {results["steps"]} steps of {results["solver"]}.
The generator has seen the 1,200 training digits, never the held-out ones.</p>
{_sample_table(synthetic, real, results["classes"])}
<h2>Confusion on held-out real digits</h2>
<div class="row">
<figure><figcaption>trained on synthetic images</figcaption>{_confusion(results["confusion"]["synthetic"])}</figure>
<figure><figcaption>trained on real images</figcaption>{_confusion(results["confusion"]["real"])}</figure>
</div>
<p class="faint">Rows are the true digits, columns the predicted ones.</p>
<h2>Where the time went</h2>{_timings(results["stage_seconds"])}
<h2>What this was run on</h2><p class="faint">{html.escape(json.dumps(results["machine"]))}</p>
"""
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>synthclone quickstart</title><style>{STYLE}</style></head><body>{body}</body></html>'
    files.write_bytes(path, page.encode())


def _accuracy_table(accuracy: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    rows = []
    for name, title in TEST_SETS.items():
        cells = "".join(
            f'<td class="number">{accuracy[source][name]["top1"]:.1%}</td><td class="bars"><span class="bar" style="background:var(--{source});width:{accuracy[source][name]["top1"]:.1%}"></span></td>'
            for source in ("synthetic", "real")
        )
        ratio = accuracy["synthetic"][name]["top1"] / max(accuracy["real"][name]["top1"], 1e-9)
        rows.append(f'<tr><td>{title}</td>{cells}<td class="number">{ratio:.3f}</td></tr>')
    head = "<tr><th>test set</th><th colspan=2>trained on synthetic</th><th colspan=2>trained on real</th><th>ratio</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def first_of_each_class(dataset: shards.Dataset, per_class: int) -> dict[str, list[bytes]]:
    """JPEGs of the first images of every class, by key."""
    found: dict[str, list[bytes]] = {key: [] for key in dataset.class_keys}
    for shard in dataset.shards:
        with tarfile.open(shard.tar) as tar:
            jpeg = b""
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None
                if member.name.endswith(".jpg"):
                    jpeg = stream.read()
                else:
                    row = found[json.loads(stream.read())["class"]]
                    if len(row) < per_class:
                        row.append(jpeg)
        if all(len(row) == per_class for row in found.values()):
            break
    return found


def _sample_table(synthetic: Path, real: Path, classes: Sequence[Mapping[str, Any]]) -> str:
    made = first_of_each_class(shards.read_dataset(synthetic), 8)
    true = first_of_each_class(shards.read_dataset(real), 4)
    rows = [
        f'<tr><td class="images">{_images(made[entry["key"]])}</td><td class="faint">{html.escape(entry["prompt"])}</td><td class="images">{_images(true[entry["key"]])}</td></tr>'
        for entry in classes
    ]
    return f"<table><tr><th>synthetic</th><th>prompt</th><th>real</th></tr>{''.join(rows)}</table>"


def _images(jpegs: Sequence[bytes]) -> str:
    return "".join(f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">' for data in jpegs)


def _confusion(matrix: Sequence[Sequence[int]]) -> str:
    counts_CC = np.asarray(matrix)
    share_CC = counts_CC / counts_CC.sum(axis=1, keepdims=True).clip(min=1)
    head = "".join(f"<th>{digit}</th>" for digit in range(len(counts_CC)))
    rows = []
    for digit, (counts, shares) in enumerate(zip(counts_CC, share_CC, strict=True)):
        cells = "".join(
            f'<td style="background:color-mix(in srgb, var(--{"synthetic" if i == digit else "real"}) {100 * share:.0f}%, transparent){";color:#fff" if share > 0.5 else ""}">{count or ""}</td>'
            for i, (count, share) in enumerate(zip(counts, shares, strict=True))
        )
        rows.append(f"<tr><th>{digit}</th>{cells}</tr>")
    return f'<table class="confusion"><tr><th></th>{head}</tr>{"".join(rows)}</table>'


def _timings(stages: Mapping[str, float]) -> str:
    longest = max(stages.values())
    rows = [
        f'<tr><td>{name}</td><td class="number">{seconds:.1f} s</td><td style="width:60%"><span class="bar" style="background:var(--faint);width:{100 * seconds / longest:.1f}%"></span></td></tr>'
        for name, seconds in stages.items()
    ]
    return f"<table>{''.join(rows)}</table>"
