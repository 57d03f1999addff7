"""Progress on the screen: images of all shards with rate and time left, each worker's own rate, and workers lost."""

import time
from collections.abc import Callable, Set
from dataclasses import dataclass

from tqdm import tqdm

from synthclone.gen.plan import Plan

MOST_NAMED = 4
"""Workers that are shown one by one; of more, the slowest and the fastest."""


def image_bar(plan: Plan, numbers: Set[int], finished: Set[int], place: int = 0) -> tqdm:
    """A bar over the images of shards, those of finished ones already counted."""
    total, initial = (sum(len(plan.shard_indices(number)) for number in some) for some in (numbers, finished))
    return tqdm(total=total, initial=initial, desc="generate", unit="image", position=place)


@dataclass
class Tally:
    """What one worker has done since it was ready."""

    since_s: float
    images: int = 0
    """Out of its U-Net, in finished shards or not."""
    finished: int = 0
    """In finished shards."""


class WorkerProgress:
    """A bar that several workers move; what a worker had in hand when it died is taken back."""

    def __init__(self, bar: tqdm, clock: Callable[[], float] = time.monotonic) -> None:
        self.bar, self.clock, self.lost = bar, clock, 0
        self._tallies: dict[int, Tally] = {}

    def ready(self, place: int) -> None:
        """A worker begins, perhaps in the place of one that died."""
        self._tallies[place] = Tally(self.clock())

    def made(self, place: int, images: int) -> None:
        """So many images have come out of a worker's U-Net since it was ready."""
        tally = self._tallies[place]
        if images > tally.images:
            self.bar.update(images - tally.images)
            tally.images = images
        self.bar.set_postfix_str(str(self))

    def finished(self, place: int, images: int) -> None:
        """A shard of so many images is safe in the storage; word of it may be quicker than word of its images."""
        self._tallies[place].finished += images
        self.made(place, self._tallies[place].finished)

    def died(self, place: int) -> None:
        """A worker is gone."""
        self.lost += 1
        tally = self._tallies.pop(place, Tally(0.0))
        self.bar.update(tally.finished - tally.images)
        self.bar.set_postfix_str(str(self))

    def __str__(self) -> str:
        now_s = self.clock()
        rates = {
            place: tally.images / max(now_s - tally.since_s, 1e-9) for place, tally in sorted(self._tallies.items())
        }
        if len(rates) > MOST_NAMED:
            parts = [f"{len(rates)} workers at {min(rates.values()):.1f} to {max(rates.values()):.1f}/s"]
        else:
            parts = [f"worker {place} {rate:.1f}/s" for place, rate in rates.items()]
        return ", ".join([*parts, f"workers lost: {self.lost}"] if self.lost else parts)
