"""One shard looked at: files against marker, index against tar, each image and its JSON. `verify.py` does the whole set."""

import hashlib
import io
import tarfile
import warnings
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from synthclone.gen import jpeg, shards, well_formed
from synthclone.gen.origin import Origin
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
    counted: bool = False
    """Whether those are all of its images: not where the tar cannot be read, or an image's JSON."""
    keys: list[str] = field(default_factory=list)
    """Of the images, in order."""
    digests: list[bytes] = field(default_factory=list)
    """16 bytes of each image's pixels; no bytes for what cannot be decoded or is flat, to be skipped."""

    def wrong(self, shard: int, what: str, key: str | None = None) -> None:
        """Note a problem."""
        self.problems.append(Problem(shard=shard, key=key, what=what))


def check_shard(
    source: Storage, number: int, manifest: Mapping[str, Any], dataset: str, origin: Origin | None, pool: Executor
) -> Checked:
    """Read a shard; a shard that cannot be read is a problem, not an error.

    Args:
        source: where it lies.
        number: which.
        manifest: of the data set.
        dataset: the identity that follows from it, which the marker bears.
        origin: what planned the shard's images.
        pool: decodes images.
    """
    checked = Checked()
    wrong = partial(checked.wrong, number)
    tar_name, index_name, _ = shards.file_names(number)
    try:
        marker = shards.read_marker(source, number)
    except ValueError as error:
        wrong(str(error))
        return checked
    if marker.get("dataset", dataset) != dataset:
        wrong("it was made by a run with other options, at the same time as another")
    try:
        data = source.read(tar_name)
    except FileNotFoundError as error:
        wrong(f"a file is missing: {error}")
        return checked
    if len(data) != marker["bytes"]:
        wrong(f"the tar has {len(data)} bytes; its marker says {marker['bytes']}")
    elif hashlib.sha256(data).hexdigest() != marker["sha256"]:
        wrong("the tar's sha256 is not the marker's")
    try:
        samples = list(shards.unpack(data))
    except ValueError as error:
        wrong(str(error))
        return checked
    checked.counted = True
    try:
        if source.read(index_name) != index_of(data):
            wrong("the .idx does not fit the tar")
    except FileNotFoundError as error:
        wrong(f"a file is missing: {error}")
    if len(samples) != marker["count"]:
        wrong(f"the tar holds {len(samples)} images; its marker says {marker['count']}")
    if origin is not None and len(samples) != origin.num_images(number):
        wrong(f"the tar holds {len(samples)} images; the plan says {origin.num_images(number)}")
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
        if fault := well_formed.sample_fault(sample.key, sample.fields):
            wrong(fault, sample.key)
            checked.counted = False
        else:
            name, label = sample.fields["class"], sample.fields["label"]
            if labels.get(name) != label:
                wrong(f"label {label} and class {name!r} do not fit the class table", sample.key)
            elif origin is not None and (fault := origin.fault(sample, number, position)):
                wrong(fault, sample.key)
            checked.counts[name] += 1
        checked.keys.append(sample.key)
        checked.digests.append(digest)
    return checked


def look_at(data: bytes) -> tuple[bytes, str | None, tuple[int, int]]:
    """An image's digest, what is wrong with it, and its height and width."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                pixels_HWC = np.asarray(image.convert("RGB"))
    except jpeg.UNREADABLE as error:
        return b"", f"cannot be decoded: {' '.join(str(error).split())}", (0, 0)
    height, width = pixels_HWC.shape[:2]
    if np.ptp(pixels_HWC, axis=(0, 1)).max() <= FLAT:
        return b"", f"is of one colour, {pixels_HWC[0, 0].tolist()}, as a decoder's NaN leaves it", (height, width)
    digest = hashlib.blake2b(f"{height} {width}".encode(), digest_size=16)
    digest.update(pixels_HWC.tobytes())
    return digest.digest(), None, (height, width)


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
