"""Generation of what is missing in a data set, from its own manifest: the words and counts in it, not the lists they came from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthclone.engines import artifact
from synthclone.gen import generate
from synthclone.gen import manifest as manifests
from synthclone.gen.launch import Launch
from synthclone.gen.plan import Plan


def check_engines(manifest: Mapping[str, Any], engines: Path) -> None:
    """Refuse engines that would give other images, before anything is taken away.

    Raises:
        ValueError: the folder lacks an engine, or one of them has another key.
    """
    for name, key in manifest["engines"].items():
        found = artifact.read_manifest(engines / name)["key"]
        if found != key:
            raise ValueError(
                f"{engines}/{name} has key {found}, but the data set was made by {key}; give the engines that made it"
            )


def remake(manifest: Mapping[str, Any], plan: Plan, engines: Path, output: str) -> None:
    """Generate every shard that is not finished.

    Raises:
        ValueError: the engines, or this version's defaults, would make another data set.
    """
    generate.generate(manifests.config_of(manifest, engines=engines, output=output), plan, Launch())
