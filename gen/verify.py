"""Read a whole data set again and say what is wrong with it.

    synthclone verify DATASET [--json FILE]              # exit code 0: nothing is wrong; 1: something is
    synthclone verify DATASET --repair --engines DIR     # make the shards that are wrong again, and read those once more

Checked: markers, sizes and sha256, index against tar, every JPEG decoded, no flat image (what a decoder's NaN leaves
behind), no two images of the same pixels, counts per class, the card of a complete set; and labels, prompts, seeds and
sampling against the plan of the manifest, or of those that were merged, where there is one. The looking at one shard is
`verify_shard.py`'s.
"""

import dataclasses
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from synthclone.engines.command import run
from synthclone.engines.files import write_json
from synthclone.gen import card, croissant, shards, storage
from synthclone.gen.duplicates import Duplicates
from synthclone.gen.manifest import identity
from synthclone.gen.origin import origin_of, origins_of, plan_of
from synthclone.gen.storage import Storage
from synthclone.gen.verify_shard import Checked, Problem, check_shard

OWN_FILES = re.compile(r"\d{6}\.(tar|idx|json)")
MOST_NAMED = 300
"""Images of the same pixels as others that are named one by one."""
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
    with Duplicates() as duplicates:
        examination = Examination(source, manifest, duplicates)
        examination.look()
        problems = examination.problems()
        if config.engines is not None and problems:
            report(config.dataset, problems)
            repair(source, manifest, problems, config, config.engines)
            examination.look({problem.shard for problem in problems if problem.shard is not None})
            problems = examination.problems()
    report(config.dataset, problems)
    if config.json is not None:
        rows = [dataclasses.asdict(problem) for problem in problems]
        write_json(config.json, {"what": "verify", "dataset": config.dataset, "num_wrong": len(rows), "wrong": rows})
    return problems


class Examination:
    """What is known of a data set's shards; those that were made anew can be looked at again without the others."""

    def __init__(self, source: Storage, manifest: Mapping[str, Any], duplicates: Duplicates) -> None:
        self.source, self.manifest, self.duplicates = source, manifest, duplicates
        self.origins, self.dataset = origins_of(manifest), identity(manifest)
        self.wrong: dict[int, list[Problem]] = {}
        self.uncounted: set[int] = set()
        self.counts = Counter[str]()
        """Images of each class; only of use where nothing is planned, and then nothing is repaired and looked at again."""

    def look(self, again: Set[int] | None = None) -> None:
        """Read all shards, or some of them again."""
        sizes = self.source.sizes()
        there = {int(name[:6]) for name in sizes if OWN_FILES.fullmatch(name)}
        expected = self.manifest.get("num_shards", max(there, default=-1) + 1)
        numbers, total = there | set(range(expected)), self.manifest.get("num_images")
        if again is not None:
            numbers, total = numbers & again, None
            self.wrong = {number: problems for number, problems in self.wrong.items() if number not in again}
            self.uncounted -= again
            self.duplicates.drop(again)
        with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=total, desc="verify", unit="image") as bar:
            for number in sorted(numbers):
                checked = Checked()
                if number >= expected:
                    checked.wrong(number, f"is not of this set: the manifest knows only {expected} shards")
                elif shards.file_names(number)[2] not in sizes:
                    checked.wrong(number, "the shard is missing")
                else:
                    origin = origin_of(self.origins, number)
                    checked = check_shard(self.source, number, self.manifest, self.dataset, origin, pool)
                if checked.problems:
                    self.wrong[number] = checked.problems
                if number < expected and not checked.counted:
                    self.uncounted.add(number)
                self.counts.update(checked.counts)
                self.duplicates.add(number, checked.digests, checked.keys)
                bar.update(len(checked.keys))

    def problems(self) -> list[Problem]:
        """Everything that is wrong, by shard."""
        found = [problem for problems in self.wrong.values() for problem in problems]
        found += repeated(self.duplicates)
        found += [Problem(shard=None, key=None, what=what) for what in (*self._miscounted(), *self._card_faults())]
        return sorted(found, key=lambda problem: (problem.shard is None, problem.shard or 0, problem.key or ""))

    def _miscounted(self) -> Iterator[str]:
        """Classes of other counts than the manifest's; where there is a plan, or a shard could not be counted, that says it all."""
        if self.uncounted or plan_of(self.manifest) is not None:
            return
        for entry in self.manifest["classes"]:
            key, count = entry["key"], entry.get("count")
            if count is not None and self.counts[key] != count:
                yield f"class {key} has {self.counts[key]} images; the manifest says {count}"

    def _card_faults(self) -> Iterator[str]:
        """What is wrong with the files that are written when a generated set is complete."""
        sizes, expected = self.source.sizes(), self.manifest.get("num_shards", 0)
        generated = all("sampling" in part for part in card.generated(self.manifest))
        if not generated or any(shards.file_names(number)[2] not in sizes for number in range(expected)):
            return
        for name in (card.FILE, croissant.FILE):
            if name not in sizes:
                yield f"{name} is missing; run the command that made the data set again"
        if croissant.FILE in sizes:
            try:
                self.source.read_json(croissant.FILE)
            except ValueError as error:
                yield str(error)


def repeated(duplicates: Duplicates) -> Iterator[Problem]:
    """Images of the same pixels: each place by itself, and from `MOST_NAMED` on the number in each shard.

    Both places are wrong, for nothing here says which of them has the pixels that it should have.
    """
    named, others = 0, Counter[int]()
    for rows in duplicates.find():
        for i, row in enumerate(rows[: MOST_NAMED - named]):
            number, key = duplicates.place(row)
            twin_number, twin = duplicates.place(rows[0 if i else 1])
            more = f" and {len(rows) - 2} more" if len(rows) > 2 else ""
            what = f"has the same pixels as {twin} of shard {twin_number:06d}{more}"
            yield Problem(shard=number, key=key, what=what)
        others.update(rows["shard"][MOST_NAMED - named :].tolist())
        named = min(MOST_NAMED, named + len(rows))
    for number, count in sorted(others.items()):
        yield Problem(shard=number, key=None, what=f"{count} more images have the same pixels as others")


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
    markers = shards.markers(source, source.sizes())
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
    mend = "; --repair --engines DIR makes those shards again" if wrong else ""
    print(f"{dataset}: {len(problems)} faults in {len(wrong)} shards{mend}")


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    problems: list[Problem] = []
    code = run(VerifyConfig, lambda config: problems.extend(main(config)), prog="synthclone verify", argv=argv)
    return code or int(bool(problems))


if __name__ == "__main__":
    sys.exit(command())
