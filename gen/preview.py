"""A gallery of data sets in one HTML file: classes by prompt variants, with every image's prompt and seed.

    synthclone preview artifacts/in100-c artifacts/in100-cd --per-class 6 --output artifacts/preview.html

One column a data set, one row a class, as the paper's Figure 2. The file needs no network: images are embedded. Shards are
read from the first on, until every class has its images. How the page looks and what it does is in `data/preview.html`.
"""

import base64
import difflib
import html
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from synthclone.engines import files
from synthclone.engines.command import run
from synthclone.gen import reading, shards, storage
from synthclone.gen.shards import Sample
from synthclone.gen.storage import Storage

PAGE = Path(__file__).parent / "data" / "preview.html"
TILE_PIXELS = 88


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """Make an HTML gallery of one or several data sets, which needs no network and no server."""

    datasets: list[str] = field(metadata={"positional": True})
    """Data sets, as folders or URLs; each becomes a column."""
    output: Path
    """The HTML file."""
    per_class: int = 8
    """Images of each class from each data set."""
    classes: str = ""
    """Keys or names of the classes to show, separated by commas; empty shows all."""
    pixels: int = 256
    """Longer side of an embedded image; larger ones are reduced, smaller ones embedded as they are."""
    max_images: int = 10000
    """Most images in the file, so that browsers can open it; 256-pixel photographs take about 20 kB each."""

    def __post_init__(self) -> None:
        for name in ("per_class", "pixels", "max_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, but must be 1 or more")
        if len(set(self.datasets)) < len(self.datasets):
            raise ValueError(f"the same data set is given twice: {', '.join(self.datasets)}")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One data set's part of the gallery."""

    url: str
    manifest: Mapping[str, Any]
    images: Mapping[str, Sequence[Sample]]
    """Samples by class key."""

    @property
    def title(self) -> str:
        """The folder's name."""
        return self.url.rpartition("/")[2]

    @property
    def subtitle(self) -> str:
        """How its images were sampled."""
        sampling = self.manifest.get("sampling", {})
        known = [f"{label} {sampling[name]}" for name, label in LABELS.items() if sampling.get(name) is not None]
        return " · ".join(known) or str(self.manifest.get("source", ""))


LABELS = {"prompt": "prompt", "guidance": "guidance", "steps": "steps", "solver": "solver"}


def choose_classes(manifests: Sequence[Mapping[str, Any]], wanted: str) -> dict[str, str]:
    """Name by key of the classes to show, in the data sets' label order.

    Raises:
        ValueError: a wanted class is in none of the data sets; the message names the nearest.
    """
    known: dict[str, str] = {}
    for entry in (entry for manifest in manifests for entry in manifest["classes"]):
        known.setdefault(entry["key"], str(entry.get("name", entry["key"])))
    words = [word.strip() for word in wanted.split(",") if word.strip()]
    for word in words:
        if word not in known and word not in known.values():
            near = difflib.get_close_matches(word, [*known, *known.values()], n=3) or list(known)[:3]
            raise ValueError(f"unknown class {word!r} in --classes; the nearest are {', '.join(near)}")
    return {key: name for key, name in known.items() if not words or key in words or name in words}


def first_samples(source: Storage, manifest: Mapping[str, Any], keys: Sequence[str], per_class: int) -> Column:
    """The first samples of each class, from as few shards as hold them.

    Raises:
        ValueError: the data set has no finished shard, or a damaged one.
    """
    counts = {entry["key"]: entry.get("count", per_class) for entry in manifest["classes"]}
    missing = {key: min(per_class, counts[key]) for key in keys if key in counts}
    images: dict[str, list[Sample]] = {key: [] for key in missing}
    numbers = sorted(shards.finished(source))
    if not numbers:
        raise ValueError(f"{source.url} has no finished shard; run the command that made it again to go on")
    for number in numbers:
        if not any(missing.values()):
            break
        for sample in reading.samples(source, number):
            key = sample.fields["class"]
            if missing.get(key):
                images[key].append(sample)
                missing[key] -= 1
                if not any(missing.values()):
                    break
    return Column(url=source.url, manifest=manifest, images=images)


def render(columns: Sequence[Column], names: Mapping[str, str], pixels: int) -> str:
    """The page."""
    samples = [sample for column in columns for row in column.images.values() for sample in row]
    heads = "".join(
        f'<th scope="col">{html.escape(column.title)}<small>{html.escape(column.subtitle)}</small></th>'
        for column in columns
    )
    rows = "\n".join(_row(key, name, columns, pixels) for key, name in names.items())
    title = "Preview of " + ", ".join(column.title for column in columns)
    summary = (
        f"{len(samples):,} images of {len(names):,} classes. Choose an image for its seed and prompt; "
        "the arrow keys go from one to the next."
    )
    parts = {
        "title": html.escape(title),
        "summary": summary,
        "height": str(TILE_PIXELS),
        "safety": "" if any(reading.SAFETY_FLAG in sample.fields for sample in samples) else "hidden",
        "columns": heads,
        "rows": rows,
    }
    page = PAGE.read_text(encoding="utf-8")
    # In one pass, so that a prompt that looks like a placeholder stays what it is.
    return re.sub(r"@(\w+)@", lambda match: parts[match[1]], page)


def _row(key: str, name: str, columns: Sequence[Column], pixels: int) -> str:
    cells = "".join(f"<td>{_cell(column, key, name, pixels)}</td>" for column in columns)
    text = html.escape(f"{key} {name}".lower())
    small = f"<small>{html.escape(key)}</small>" if key != name else ""
    return f'<tr data-class="{text}"><th scope="row">{html.escape(name)}{small}</th>{cells}</tr>'


def _cell(column: Column, key: str, name: str, pixels: int) -> str:
    samples = column.images.get(key, ())
    if not samples:
        return '<p class="faint">no images of this class</p>'
    prompts = {str(sample.fields.get("prompt", "")) for sample in samples}
    head = f'<p class="prompt">{html.escape(prompts.copy().pop())}</p>' if len(prompts) == 1 and any(prompts) else ""
    return f'{head}<div class="tiles">{"".join(_tile(column, sample, name, pixels) for sample in samples)}</div>'


def _tile(column: Column, sample: Sample, name: str, pixels: int) -> str:
    fields = {"data set": column.title, **sample.fields}
    prompt, seed = sample.fields.get("prompt"), sample.fields.get("seed")
    serial = sample.fields.get("serial", sample.key)
    alt = html.escape(f"{name}, number {serial}" + (f", made from the prompt: {prompt}" if prompt else ""))
    tip = html.escape("\n".join(str(line) for line in (prompt, f"serial {serial}", seed and f"seed {seed}") if line))
    data, width, height = _embed(sample.jpeg, pixels)
    state = " flagged" if sample.fields.get(reading.SAFETY_FLAG) else ""
    return (
        f'<button type="button" class="tile{state}" title="{tip}" data-fields="{html.escape(json.dumps(fields))}">'
        f'<img alt="{alt}" width="{width}" height="{height}" src="data:image/jpeg;base64,{data}"></button>'
    )


def _embed(jpeg: bytes, pixels: int) -> tuple[str, int, int]:
    """Base64 of an image, reduced if it is too large, with its size."""
    with Image.open(io.BytesIO(jpeg)) as image:
        if max(image.size) > pixels:
            image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=88, xmp=image.info.get("xmp", b""))
            jpeg = buffer.getvalue()
        return base64.b64encode(jpeg).decode(), *image.size


def main(config: PreviewConfig) -> None:
    """Write the gallery."""
    sources = [storage.at(location) for location in config.datasets]
    manifests = [shards.read_manifest(source) for source in sources]
    names = choose_classes(manifests, config.classes)
    most = len(names) * config.per_class * len(sources)
    if most > config.max_images:
        raise ValueError(
            f"{len(names)} classes x {config.per_class} images x {len(sources)} data sets are {most}, over --max-images "
            f"{config.max_images}; lower --per-class, choose --classes, or raise --max-images"
        )
    columns = [
        first_samples(source, manifest, list(names), config.per_class)
        for source, manifest in zip(sources, manifests, strict=True)
    ]
    page = render(columns, names, config.pixels).encode()
    files.write_bytes(config.output, page)
    count = sum(len(row) for column in columns for row in column.images.values())
    print(f"{config.output}: {count} images of {len(names)} classes, {len(page) / 1e6:.1f} MB; open it in a browser")


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(PreviewConfig, main, prog="synthclone preview", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
