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
from tqdm import tqdm

from synthclone.engines import files
from synthclone.engines.command import run
from synthclone.gen import jpeg, reading, shards, storage
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
class Picture:
    """A sample, as it goes into the page."""

    key: str
    fields: Mapping[str, Any]
    base64: str
    """JPEG, reduced if it was too large."""
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Column:
    """One data set's part of the gallery."""

    url: str
    manifest: Mapping[str, Any]
    images: Mapping[str, Sequence[Picture]]
    """By class key."""

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


def first_pictures(
    source: Storage, manifest: Mapping[str, Any], keys: Sequence[str], per_class: int, pixels: int
) -> Column:
    """The first images of each class, from as few shards as hold them.

    Raises:
        ValueError: the data set has no finished shard, or a damaged one, or an image that cannot be decoded.
    """
    counts = {entry["key"]: entry.get("count", per_class) for entry in manifest["classes"]}
    missing = {key: min(per_class, counts[key]) for key in keys if key in counts}
    images: dict[str, list[Picture]] = {key: [] for key in missing}
    numbers = sorted(shards.finished(source))
    if not numbers:
        raise ValueError(f"{source.url} has no finished shard; run the command that made it again to go on")
    with tqdm(total=sum(missing.values()), desc=f"preview {source.url}", unit="image") as bar:
        for number in numbers if any(missing.values()) else ():
            for sample in reading.samples(source, number):
                key = sample.fields["class"]
                if missing.get(key):
                    images[key].append(_picture(source, number, sample, pixels))
                    missing[key] -= 1
                    bar.update()
                    if not any(missing.values()):
                        return Column(url=source.url, manifest=manifest, images=images)
    return Column(url=source.url, manifest=manifest, images=images)


def _picture(source: Storage, number: int, sample: Sample, pixels: int) -> Picture:
    data = sample.jpeg
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if max(image.size) > pixels:
                image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=88, xmp=image.info.get("xmp", b""))
                data = buffer.getvalue()
            width, height = image.size
    except jpeg.UNREADABLE as error:
        raise ValueError(
            f"{source.url}/{shards.file_names(number)[0]}: image {sample.key} cannot be decoded ({error}); "
            f"`synthclone verify {source.url}` tells more, and repairs it with --repair"
        ) from error
    text = base64.b64encode(data).decode()
    return Picture(key=sample.key, fields=sample.fields, base64=text, width=width, height=height)


def render(columns: Sequence[Column], names: Mapping[str, str]) -> str:
    """The page."""
    pictures = [picture for column in columns for row in column.images.values() for picture in row]
    heads = "".join(
        f'<th scope="col">{html.escape(column.title)}<small>{html.escape(column.subtitle)}</small></th>'
        for column in columns
    )
    rows = "\n".join(_row(key, name, columns) for key, name in names.items())
    title = "Preview of " + ", ".join(column.title for column in columns)
    summary = (
        f"{len(pictures):,} images of {len(names):,} classes. Choose an image for its seed and prompt; "
        "the arrow keys go from one to the next."
    )
    parts = {
        "title": html.escape(title),
        "summary": summary,
        "height": str(TILE_PIXELS),
        "safety": "" if any(reading.SAFETY_FLAG in picture.fields for picture in pictures) else "hidden",
        "columns": heads,
        "rows": rows,
    }
    page = PAGE.read_text(encoding="utf-8")
    # In one pass, so that a prompt that looks like a placeholder stays what it is.
    return re.sub(r"@(\w+)@", lambda match: parts[match[1]], page)


def _row(key: str, name: str, columns: Sequence[Column]) -> str:
    cells = "".join(f"<td>{_cell(column, key, name)}</td>" for column in columns)
    text = html.escape(f"{key} {name}".lower())
    small = f"<small>{html.escape(key)}</small>" if key != name else ""
    return f'<tr data-class="{text}"><th scope="row">{html.escape(name)}{small}</th>{cells}</tr>'


def _cell(column: Column, key: str, name: str) -> str:
    pictures = column.images.get(key, ())
    if not pictures:
        return '<p class="faint">no images of this class</p>'
    prompts = {str(picture.fields.get("prompt", "")) for picture in pictures}
    head = f'<p class="prompt">{html.escape(prompts.copy().pop())}</p>' if len(prompts) == 1 and any(prompts) else ""
    return f'{head}<div class="tiles">{"".join(_tile(column, picture, name) for picture in pictures)}</div>'


def _tile(column: Column, picture: Picture, name: str) -> str:
    fields = {"data set": column.title, **picture.fields}
    prompt, seed = picture.fields.get("prompt"), picture.fields.get("seed")
    serial = picture.fields.get("serial", picture.key)
    alt = html.escape(f"{name}, number {serial}" + (f", made from the prompt: {prompt}" if prompt else ""))
    tip = html.escape("\n".join(str(line) for line in (prompt, f"serial {serial}", seed and f"seed {seed}") if line))
    state = " flagged" if picture.fields.get(reading.SAFETY_FLAG) else ""
    return (
        f'<button type="button" class="tile{state}" title="{tip}" data-fields="{html.escape(json.dumps(fields))}">'
        f'<img alt="{alt}" width="{picture.width}" height="{picture.height}" src="data:image/jpeg;base64,{picture.base64}">'
        "</button>"
    )


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
        first_pictures(source, manifest, list(names), config.per_class, config.pixels)
        for source, manifest in zip(sources, manifests, strict=True)
    ]
    page = render(columns, names).encode()
    files.write_bytes(config.output, page)
    count = sum(len(row) for column in columns for row in column.images.values())
    print(f"{config.output}: {count} images of {len(names)} classes, {len(page) / 1e6:.1f} MB; open it in a browser")


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(PreviewConfig, main, prog="synthclone preview", argv=argv)


if __name__ == "__main__":
    sys.exit(command())
