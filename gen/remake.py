"""Shards made again from a data set's own manifest: the words and counts in it, not the lists they came from."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synthclone.engines import artifact, backend
from synthclone.gen import manifest as manifests
from synthclone.gen import production
from synthclone.gen.maker import ShardMaker
from synthclone.gen.plan import Plan
from synthclone.gen.progress import image_bar


def open_remaker(
    manifest: Mapping[str, Any], plan: Plan, engines: Path, output: str, safety_checker: Path | None
) -> ShardMaker:
    """Everything that making the shards again needs, opened and held against the manifest before anything is touched.

    Raises:
        ValueError: the folder lacks an engine, or one of them has another key; the safety checker is gone or another
            one; or this version's defaults would make another data set.
    """
    for name, key in manifest["engines"].items():
        found = artifact.read_manifest(engines / name)["key"]
        if found != key:
            raise ValueError(
                f"{engines}/{name} has key {found}, but the data set was made by {key}; give the engines that made it"
            )
    config = manifests.config_of(manifest, engines=engines, output=output)
    if safety_checker is not None:
        config = dataclasses.replace(config, safety_checker=safety_checker)
    return production.open_maker(config, plan, backend.pick_device(config.device))


def remake(maker: ShardMaker, numbers: Sequence[int]) -> None:
    """Make shards again; each takes the place of the one that is there when it is complete."""
    with image_bar(maker.plan, set(numbers), set()) as bar:
        maker.on_images = bar.update
        for _ in maker.make(numbers):
            pass
