"""From shard numbers to finished shards: every stage on its own thread, so that the U-Net never waits for another.

    numbers ─> plan, noise, text ─> U-Net steps ─> VAE, checks ─> JPEG (several) ─> shard
               "prepare"            this thread    "decode"       "jpeg"            "write"

Batches run across the borders of classes and shards; only the very last one is filled up with copies. Queues are bounded:
a stage that cannot keep up holds the ones before it back.
"""

import dataclasses
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from synthclone.gen import shards
from synthclone.gen.noise import retry_seed
from synthclone.gen.plan import Plan, PlannedImage
from synthclone.gen.sampler import Batch, Sampler
from synthclone.gen.storage import Storage
from synthclone.gen.timeline import Timeline

BATCHES_IN_FLIGHT = 3
"""Between the U-Net and the last JPEG of a batch."""
SHARDS_IN_FLIGHT = 2
"""Complete in memory, but not written."""

MakeSample = Callable[[PlannedImage, np.ndarray, Mapping[str, Any]], shards.Sample]
Review = Callable[[Sequence[PlannedImage], Sequence[int], np.ndarray], Sequence["Verdict"]]
"""Planned images, how often each was made before, and their pixels (uint8, B x H x W x 3)."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a review of an image says."""

    fields: Mapping[str, Any]
    """To be stored with the image."""
    again: bool = False
    """Not to be kept, but made anew from another seed."""


@dataclass
class Shard:
    """A shard in hand."""

    number: int
    missing: int
    samples: list[shards.Sample | None]
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Slot:
    """An image's place in its shard."""

    shard: Shard
    position: int
    first: PlannedImage
    """As the plan has it."""
    attempt: int = 0

    @property
    def planned(self) -> PlannedImage:
        """What is made in this attempt."""
        return dataclasses.replace(self.first, seed=retry_seed(self.first.seed, self.attempt))


@dataclass(kw_only=True)
class ShardMaker:
    """Everything that making shards needs."""

    plan: Plan
    sampler: Sampler
    target: Storage
    provenance: Callable[[Sequence[shards.Sample]], Mapping[str, Any]]
    """What a shard's marker says of its making."""
    make_sample: MakeSample
    review: Review | None = None
    """Looks at each batch of images before it is kept; from it come safety flags."""
    on_images: Callable[[int], None] = lambda count: None
    """Told how many images have come out of the U-Net, each once; called on the thread that runs `make`."""
    timeline: Timeline = field(default_factory=Timeline)

    def make(self, numbers: Iterable[int]) -> Iterator[int]:
        """Make shards; yields the number of each once it is safe in the storage.

        Args:
            numbers: which; asked for one at a time, when the images of the earlier ones are all under way.

        Raises:
            BadImageError: an image came out broken; shards that were finished before stay.
            OSError: the storage is full or refuses.
        """
        with ExitStack() as stack:
            flow = _Flow(self, iter(numbers), stack)
            preparing = flow.prepare.submit(flow.next_batch)
            while True:
                prepared = preparing.result()
                if prepared is None and flow.settle():  # a review may have sent images back
                    preparing = flow.prepare.submit(flow.next_batch)
                    continue
                if prepared is None:
                    break
                slots, batch = prepared
                preparing = flow.prepare.submit(flow.next_batch)
                latent_BCHW = self.sampler.latents(batch)
                flow.hand_over(slots, latent_BCHW)
                self.on_images(sum(not slot.attempt for slot in slots))
                yield from flow.written(most=SHARDS_IN_FLIGHT)
            yield from flow.written(most=0)


class _Flow:
    """The state of one `make`: threads, queues, and images that are to be made again."""

    def __init__(self, maker: ShardMaker, numbers: Iterator[int], stack: ExitStack) -> None:
        self.maker, self.slots = maker, self._slots(numbers)
        self.again: deque[Slot] = deque()
        self.decoding: deque[Future[None]] = deque()
        self.writing: deque[tuple[int, Future[None]]] = deque()
        self.room = threading.Semaphore(BATCHES_IN_FLIGHT)
        self.prepare, self.decode, self.write = (
            stack.enter_context(_pool(name, 1)) for name in ("prepare", "decode", "write")
        )
        self.jpeg = stack.enter_context(_pool("jpeg", min(8, os.cpu_count() or 1)))
        # Runs first on the way out, so that an interrupted run does not finish what is queued.
        stack.callback(self._drop)

    def _drop(self) -> None:
        for pool in (self.prepare, self.decode, self.jpeg, self.write):
            pool.shutdown(wait=False, cancel_futures=True)

    def _slots(self, numbers: Iterator[int]) -> Iterator[Slot]:
        for number in numbers:
            indices = self.maker.plan.shard_indices(number)
            shard = Shard(number, len(indices), [None] * len(indices))
            for position, index in enumerate(indices):
                yield Slot(shard, position, self.maker.plan.image(index))

    def next_batch(self) -> tuple[list[Slot], Batch] | None:
        """The next images with their noise and text, or None at the end; on the thread "prepare"."""
        taken: list[Slot] = []
        while len(taken) < self.maker.sampler.batch:
            slot = self.again.popleft() if self.again else next(self.slots, None)
            if slot is None:
                break
            taken.append(slot)
        if not taken:
            return None
        with self.maker.timeline.span("prepare"):
            return taken, self.maker.sampler.prepare([slot.planned for slot in taken])

    def hand_over(self, slots: list[Slot], latent_BCHW: Any) -> None:
        """Give a batch's latents to the decoder, as soon as there is room."""
        with self.maker.timeline.span("wait for room"):
            self.room.acquire()
        self._check()
        self.decoding.append(self.decode.submit(self._decode, slots, latent_BCHW))

    def settle(self) -> bool:
        """Wait for the decoder; whether there is more to make."""
        while self.decoding:
            self.decoding.popleft().result()
        return bool(self.again)

    def _check(self) -> None:
        """Raise what a finished decoding raised."""
        while self.decoding and self.decoding[0].done():
            self.decoding.popleft().result()

    def _decode(self, slots: list[Slot], latent_BCHW: Any) -> None:
        """Pixels, review and JPEGs of a batch; on the thread "decode"."""
        try:
            planned = [slot.planned for slot in slots]
            with self.maker.timeline.span("decode"):
                images_BHWC = self.maker.sampler.decode(latent_BCHW, planned).numpy()
            verdicts: Sequence[Verdict] = [Verdict(fields={})] * len(slots)
            if self.maker.review is not None:
                with self.maker.timeline.span("review"):
                    verdicts = self.maker.review(planned, [slot.attempt for slot in slots], images_BHWC)
            encoding = []
            for slot, image_HWC, verdict in zip(slots, images_BHWC, verdicts, strict=True):
                if verdict.again:
                    self.again.append(dataclasses.replace(slot, attempt=slot.attempt + 1))
                else:
                    encoding.append(self.jpeg.submit(self._encode, slot, image_HWC, verdict.fields))
            for future in encoding:
                future.result()
        finally:
            self.room.release()

    def _encode(self, slot: Slot, image_HWC: np.ndarray, fields: Mapping[str, Any]) -> None:
        with self.maker.timeline.span("jpeg"):
            sample = self.maker.make_sample(slot.planned, image_HWC, fields)
        shard = slot.shard
        with shard.lock:
            shard.samples[slot.position] = sample
            shard.missing -= 1
            complete = shard.missing == 0
        if complete:
            self.writing.append((shard.number, self.write.submit(self._write, shard)))

    def _write(self, shard: Shard) -> None:
        samples = [sample for sample in shard.samples if sample is not None]
        assert len(samples) == len(shard.samples)
        with self.maker.timeline.span("write"):
            shards.write_shard(self.maker.target, shard.number, samples, self.maker.provenance(samples))

    def written(self, *, most: int) -> Iterator[int]:
        """Numbers of written shards, waiting until at most `most` are unwritten; 0 also waits for the decoder."""
        if most == 0:
            self.settle()
        while self.writing and (len(self.writing) > most or self.writing[0][1].done()):
            number, future = self.writing.popleft()
            future.result()
            yield number


def _pool(name: str, count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix=name)
