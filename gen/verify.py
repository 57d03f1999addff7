"""Read a whole data set again and say what is wrong with it.

    synthclone verify DATASET [--json FILE]              # exit code 0: nothing is wrong; 1: something is
    synthclone verify DATASET --repair --engines DIR     # make the shards that are wrong again, and read all once more

Checked: markers, sizes and sha256, index against tar, every JPEG decoded, no flat image (what a decoder's NaN leaves
behind), no two images of the same pixels, counts per class, and labels, prompts and seeds against the plan of the
manifest, where it has one. The looking at one shard is `verify_shard.py`'s.
"""

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from synthclone.engines.command import run
from synthclone.engines.files import write_json
from synthclone.gen import card, shards, storage
from synthclone.gen import manifest as manifests
from synthclone.gen.duplicates import Duplicates
from synthclone.gen.plan import Plan
from synthclone.gen.storage import Storage
from synthclone.gen.verify_shard import Problem, check_shard

MOST_ROWS = 50
"""Rows of the printed table; the JSON has all."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Read a whole data set again and say what is wrong with it; exit code 1 if anything is."""

    dataset: str = field(metadata={"positional": True})
    """Folder or URL of the data set."""
    json: Path | None = None
    """File for everything that is wrong, as JSON."""
    repair: bool = False
    """Make the shards that are wrong or missing again; needs --engines."""
    engines: Path | None = None
    """Folder of the engines that made the data set, for --repair."""
    safety_checker: Path | None = None
    """Diffusers folder of the safety checker that looked at the images, if it is no longer where it was, for --repair."""

    def __post_init__(self) -> None:
        if self.repair != (self.engines is not None):
            raise ValueError("--repair and --engines belong together; give both or neither")


def main(config: VerifyConfig) -> list[Problem]:
    """Verify, and repair if asked to; returns what is (still) wrong."""
    source = storage.at(config.dataset)
    manifest = shards.read_manifest(source)
    problems = verify(source, manifest)
    if config.engines is not None and problems:
        report(config.dataset, problems)
        repair(source, manifest, problems, config, config.engines)
        problems = verify(source, manifest)
    report(config.dataset, problems)
    if config.json is not None:
        rows = [dataclasses.asdict(problem) for problem in problems]
        write_json(config.json, {"what": "verify", "dataset": config.dataset, "num_wrong": len(rows), "wrong": rows})
    return problems


def verify(source: Storage, manifest: Mapping[str, Any]) -> list[Problem]:
    """Everything that is wrong with a data set, by shard."""
    plan = plan_of(manifest)
    sizes = source.sizes()
    problems, found, counts = [], {}, Counter[str]()
    for number in sorted(int(name[:6]) for name in sizes if shards.MARKER.fullmatch(name)):
        try:
            found[number] = shards.read_marker(source, number)
        except ValueError as error:
            problems.append(Problem(shard=number, key=None, what=str(error)))
    expected = manifest.get("num_shards", max(found, default=-1) + 1)
    known = {problem.shard for problem in problems}
    for number in sorted(set(range(expected)) - set(found) - known):
        problems.append(Problem(shard=number, key=None, what="the shard is missing"))
    for number in [number for number in found if number >= expected]:
        problems.append(Problem(shard=number, key=None, what=f"the manifest knows only {expected} shards"))
    total = sum(marker["count"] for marker in found.values())
    with (
        Duplicates() as duplicates,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=total, desc="verify", unit="image") as bar,
    ):
        for number, marker in found.items():
            checked = check_shard(source, number, marker, manifest, plan, pool)
            problems += checked.problems
            counts.update(checked.counts)
            duplicates.add(number, checked.digests)
            bar.update(len(checked.digests))
        for (number, position), (first, first_position) in duplicates.find():
            keys = [_key(source, *place) for place in ((number, position), (first, first_position))]
            what = f"has the same pixels as {keys[1]} of shard {first:06d}"
            problems.append(Problem(shard=number, key=keys[0], what=what))
    for entry in manifest["classes"]:
        if "count" in entry and counts[entry["key"]] != entry["count"]:
            what = f"class {entry['key']} has {counts[entry['key']]} images; the manifest says {entry['count']}"
            problems.append(Problem(shard=None, key=None, what=what))
    return sorted(problems, key=lambda problem: (problem.shard is None, problem.shard or 0, problem.key or ""))


def plan_of(manifest: Mapping[str, Any]) -> Plan | None:
    """The plan of a generated data set; None for merged ones and for real images."""
    return manifests.plan_of(manifest) if "template" in manifest.get("sampling", {}) else None


def repair(
    source: Storage, manifest: Mapping[str, Any], problems: Sequence[Problem], config: VerifyConfig, engines: Path
) -> None:
    """Make the wrong shards again, and no others; take away those that are none of the data set.

    Raises:
        ValueError: the data set was not generated, or what made it is not at hand.
    """
    plan = plan_of(manifest)
    if plan is None:
        raise ValueError(f"{source.url} was not made by `synthclone generate`; make it again from where it came")
    from synthclone.gen.remake import open_remaker, remake  # brings in every backend

    maker = open_remaker(manifest, plan, engines, source.url, config.safety_checker)
    wrong = sorted({problem.shard for problem in problems if problem.shard is not None})
    remake(maker, [number for number in wrong if number < plan.num_shards])
    sizes = source.sizes()
    for number in wrong:
        for name in reversed(shards.file_names(number)) if number >= plan.num_shards else ():
            if name in sizes:
                source.remove(name)
    markers = shards.markers(source, sizes)
    if len(markers) == plan.num_shards:
        card.write_card(source, manifest, markers)


def report(dataset: str, problems: Sequence[Problem]) -> None:
    """Print a table of what is wrong."""
    if not problems:
        print(f"{dataset}: nothing is wrong")
        return
    print(f"{'shard':<8}{'image':<24}what is wrong")
    for problem in problems[:MOST_ROWS]:
        shard = "-" if problem.shard is None else f"{problem.shard:06d}"
        print(f"{shard:<8}{problem.key or '-':<24}{problem.what}")
    if len(problems) > MOST_ROWS:
        print(f"... and {len(problems) - MOST_ROWS} more; --json FILE has all")
    wrong = {problem.shard for problem in problems if problem.shard is not None}
    print(f"{dataset}: {len(problems)} faults in {len(wrong)} shards; --repair --engines DIR makes those shards again")


def _key(source: Storage, number: int, position: int) -> str:
    for i, sample in enumerate(shards.unpack(source.read(shards.file_names(number)[0]))):
        if i == position:
            return sample.key
    raise AssertionError


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    problems: list[Problem] = []
    code = run(VerifyConfig, lambda config: problems.extend(main(config)), prog="synthclone verify", argv=argv)
    return code or int(bool(problems))


if __name__ == "__main__":
    sys.exit(command())
