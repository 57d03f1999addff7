"""Bad images of a data set: found by decoding each, named, and left out by an index of the run's own.

The data set is never changed. `RUN/quarantine.json` lists what was found, `RUN/index/NNNNNN.idx` is the shard's
index without it. A scan happens only after DALI has stopped at a sample, since DALI decodes every image anyway.
"""

import io
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from synthclone.engines.files import read_json, write_bytes, write_json
from synthclone.gen.shards import Shard
from synthclone.train.shard_index import format_index, read_index


def index_path(run_folder: Path, shard: Shard) -> Path:
    """Where a run keeps its own index of a shard."""
    return run_folder / "index" / shard.index.name


def quarantine_rows(run_folder: Path) -> list[dict[str, Any]]:
    """What this run has left out so far."""
    file = run_folder / "quarantine.json"
    return read_json(file)["images"] if file.is_file() else []


def quarantine(shards: Sequence[Shard], run_folder: Path) -> int:
    """Decode every image of the shards, leave out the bad ones from now on; returns how many are new."""
    known = {(row["shard"], row["key"]) for row in quarantine_rows(run_folder)}
    found = []
    with ThreadPoolExecutor() as pool:  # PIL decodes without Python's lock
        for shard, rows in zip(shards, pool.map(scan, shards), strict=True):
            if rows:
                bad = {row["key"] for row in rows}
                kept = [sample for sample in read_index(shard.index) if sample["jpg"].name not in bad]
                write_bytes(index_path(run_folder, shard), format_index(kept).encode())
            found += [row for row in rows if (row["shard"], row["key"]) not in known]
    for row in found:
        print(f"warning: {row['shard']}: {row['key']} is left out: {row['reason']}", file=sys.stderr)
    if found:
        rows = quarantine_rows(run_folder) + found
        write_json(run_folder / "quarantine.json", {"num_images": len(rows), "images": rows})
    return len(found)


def scan(shard: Shard) -> list[dict[str, Any]]:
    """The images of one shard that cannot be decoded, each with the reason."""
    rows = []
    with shard.tar.open("rb") as tar:
        for sample in read_index(shard.index):
            member = sample["jpg"]
            tar.seek(member.offset_bytes)
            reason = fault(tar.read(member.size_bytes))
            if reason:
                rows.append({"shard": str(shard.tar), "key": member.name, "reason": reason})
    return rows


def fault(data: bytes) -> str | None:
    """Why an image cannot be used, or None."""
    if not data:
        return "the file is empty"
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB")
    except UnidentifiedImageError:
        return f"its {len(data)} bytes are no image"
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for truncated and malformed files
        return " ".join(str(error).split())
    return None
