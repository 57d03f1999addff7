"""One shard looked at: files against marker, index against tar, each image and its JSON. `verify.py` does the whole set."""

import hashlib
import io
import tarfile
import warnings
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from synthclone.gen import shards
from synthclone.gen.plan import Plan
from synthclone.gen.shards import Sample
from synthclone.gen.storage import Storage

FLAT = 2
"""Grey levels that JPEG may put between the darkest and the brightest pixel of a channel of one colour."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    shard: int | None
    """None for the data set as a whole."""
    key: str | None
    """Of the image; None for the shard as a whole."""
    what: str


@dataclass(kw_only=True)
class Checked:
    """What one shard holds."""

    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Images of each class."""
    digests: list[bytes] = field(default_factory=list)
    """16 bytes of each image's pixels, in order; no bytes for what cannot be decoded or is flat, to be skipped."""


def check_shard(
    source: Storage,
    number: int,
    marker: Mapping[str, Any],
    manifest: Mapping[str, Any],
    plan: Plan | None,
    pool: Executor,
) -> Checked:
    """Read a shard; a shard that cannot be read is a problem, not an error."""
    checked = Checked()

    def wrong(what: str, key: str | None = None) -> None:
        checked.problems.append(Problem(shard=number, key=key, what=what))

    tar_name, index_name, _ = shards.file_names(number)
    try:
        data, index = source.read(tar_name), source.read(index_name)
    except FileNotFoundError as error:
        wrong(f"a file is missing: {error}")
        return checked
    if len(data) != marker["bytes"]:
        wrong(f"the tar has {len(data)} bytes; its marker says {marker.get('bytes')}")
    elif hashlib.sha256(data).hexdigest() != marker["sha256"]:
        wrong("the tar's sha256 is not the marker's")
    try:
        samples = list(shards.unpack(data))
    except ValueError as error:
        wrong(str(error))
        return checked
    if len(samples) != marker["count"]:
        wrong(f"the tar holds {len(samples)} images; its marker says {marker.get('count')}")
    if index != index_of(data):
        wrong("the .idx does not fit the tar")
    if plan is not None and number < plan.num_shards and len(samples) != len(plan.shard_indices(number)):
        wrong(f"the tar holds {len(samples)} images; the plan says {len(plan.shard_indices(number))}")
    labels = {entry["key"]: label for label, entry in enumerate(manifest["classes"])}
    size = manifest.get("image_size")
    shape = tuple(size) if isinstance(size, list) else (size, size)
    for position, (sample, (digest, fault, found)) in enumerate(
        zip(samples, pool.map(look_at, (sample.jpeg for sample in samples)), strict=True)
    ):
        if fault is None and size is not None and found != shape:
            fault = f"is {found[0]} x {found[1]} pixels; the manifest says {shape[0]} x {shape[1]}"
        if fault is not None:
            wrong(fault, sample.key)
        name = sample.fields.get("class")
        if labels.get(name) != sample.fields.get("label") or name not in labels:
            wrong(f"label {sample.fields.get('label')} and class {name!r} do not fit the class table", sample.key)
        elif plan is not None and (fault := against_plan(sample, plan, number, position)):
            wrong(fault, sample.key)
        checked.counts[str(name)] += 1
        checked.digests.append(digest)
    return checked


def look_at(jpeg: bytes) -> tuple[bytes, str | None, tuple[int, int]]:
    """An image's digest, what is wrong with it, and its height and width."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(jpeg)) as image:
                pixels_HWC = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for truncated and malformed files
        return b"", f"cannot be decoded: {' '.join(str(error).split())}", (0, 0)
    height, width = pixels_HWC.shape[:2]
    if np.ptp(pixels_HWC, axis=(0, 1)).max() <= FLAT:
        return b"", f"is of one colour, {pixels_HWC[0, 0].tolist()}, as a decoder's NaN leaves it", (height, width)
    digest = hashlib.blake2b(f"{height} {width}".encode(), digest_size=16)
    digest.update(pixels_HWC.tobytes())
    return digest.digest(), None, (height, width)


def against_plan(sample: Sample, plan: Plan, number: int, position: int) -> str | None:
    """How an image's key and JSON differ from the plan's at this place, or None."""
    index = number * plan.shard_size + position
    if index >= plan.num_images:
        return "is not in the plan"
    planned = plan.image(index)
    expected: dict[str, Any] = {
        "index": index,
        "label": planned.label,
        "class": planned.class_key,
        "prompt": planned.prompt,
        "serial": planned.serial,
    }
    if not sample.fields.get("attempt"):  # what was made anew for its safety has a seed derived from the plan's
        expected["seed"] = planned.seed
    for name, value in expected.items():
        if sample.fields.get(name) != value:
            return f"has {name} {sample.fields.get(name)!r}; the plan says {value!r}"
    return None if sample.key == f"{index:09d}" else f"should be {index:09d} by the plan"


def index_of(tar_bytes: bytes) -> bytes:
    """DALI's index of a tar, from the tar alone.

    Raises:
        tarfile.TarError: it is damaged.
    """
    lines: dict[str, list[str]] = {}
    with tarfile.open(fileobj=io.BytesIO(tar_bytes), mode="r:") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            lines.setdefault(key, []).append(f"{extension} {member.offset_data} {member.size} {member.name}")
    return "\n".join([f"v1.2 {len(lines)}", *(" ".join(entries) for entries in lines.values()), ""]).encode()
