"""`--distributor ray`: an actor per GPU anywhere in a Ray cluster, each given a few shards at a time.

    ray start --head                                      # or RAY_ADDRESS=HOST:6379 for a cluster that runs
    synthclone generate ... --distributor ray --workers 16 --output s3://bucket/set

Engines and output must be reachable from every node under the same path or URL. A lost actor's shards are given to
others and a new actor takes its place. Without a cluster Ray starts one on this machine.
"""

import logging
import os
from contextlib import suppress
from typing import Any

from synthclone.engines.command import USER_MISTAKES
from synthclone.gen.config import GenerateConfig
from synthclone.gen.plan import Plan
from synthclone.gen.progress import WorkerProgress
from synthclone.gen.shard_queue import ShardQueue

SHARDS_AT_A_TIME = 2
"""So that most batches are full across shards, and a loss costs little."""
POLL_S = 1.0
"""How often actors are asked for their progress."""


def generate_on_ray(config: GenerateConfig, plan: Plan, queue: ShardQueue, progress: WorkerProgress) -> None:
    """Make the queue's shards with `config.workers` actors.

    Raises:
        ValueError: Ray is not installed, or what an actor found wrong with the options, the engines or the data set.
        WorkersLostError: actors die again and again.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError("--distributor ray needs ray; install it with `pip install 'synthclone[ray]'`") from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster at {address}; start one with `ray start --head`") from error
    gpus = int(ray.cluster_resources().get("GPU", 0))
    count = config.workers or gpus or 1
    # A second thread, to tell the progress while the first one works.
    actors = ray.remote(Maker).options(num_gpus=1 if gpus else 0, max_restarts=0, max_concurrency=2)
    busy: dict[Any, tuple[int, list[int], Any]] = {}
    asked: dict[Any, int] = {}

    def start(place: int) -> Any:
        progress.ready(place)
        return actors.remote(config, plan)

    def give(place: int, actor: Any) -> None:
        numbers = [number for _ in range(SHARDS_AT_A_TIME) if (number := queue.take(place)) is not None]
        if numbers:
            busy[actor.make.remote(numbers)] = (place, numbers, actor)

    def ask() -> None:
        """Take in the answers to the last round's questions; whoever has answered is asked again."""
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0) if asked else ([], [])
        for question in answered:
            place = asked.pop(question)
            with suppress(ray.exceptions.RayError):  # its task will tell
                progress.made(place, ray.get(question))
        silent = {place for place, _, _ in busy.values()} - set(asked.values())
        asked.update({actor.num_images.remote(): place for place, _, actor in busy.values() if place in silent})

    try:
        for place in range(count):
            if not queue.empty:
                give(place, start(place))
        while busy:
            done, _ = ray.wait(list(busy), num_returns=1, timeout=POLL_S)
            ask()
            for task in done:
                place, numbers, actor = busy.pop(task)
                try:
                    mistake = ray.get(task)
                except ray.exceptions.RayError as error:  # the actor is gone, or raised what is no user's mistake
                    ray.kill(actor)
                    progress.died(place)
                    for question in [question for question, whose in asked.items() if whose == place]:
                        del asked[question]
                    queue.lost(place, reason_of(error))
                    actor = start(place)
                else:
                    if mistake is not None:
                        raise ValueError(mistake)
                    for number in numbers:
                        queue.done(place, number)
                        progress.finished(place, len(plan.shard_indices(number)))
                give(place, actor)
    finally:
        for _, _, actor in busy.values():
            ray.kill(actor)


def reason_of(error: Any) -> str:
    """One line of Ray's many."""
    cause = getattr(error, "cause", None)  # of what an actor raised
    return repr(cause) if cause is not None else str(error).strip().splitlines()[0]


class Maker:
    """What an actor holds: engines, opened once."""

    def __init__(self, config: GenerateConfig, plan: Plan) -> None:
        self.config, self.plan = config, plan
        self.maker: Any = None
        self._images = 0

    def make(self, numbers: list[int]) -> str | None:
        """Make shards; returns the text of a user's mistake, or None.

        Mistakes are told, not raised: an actor that raises looks like one that is broken.
        """
        from synthclone.engines import backend
        from synthclone.gen.production import open_maker

        try:
            if self.maker is None:
                device = backend.pick_device(self.config.device)
                self.maker = open_maker(self.config, self.plan, device, on_images=self._count)
            for _ in self.maker.make(numbers):
                pass
        except USER_MISTAKES as error:
            return " ".join(str(error).split())
        return None

    def _count(self, images: int) -> None:
        self._images += images

    def num_images(self) -> int:
        """Images that have come out of the U-Net."""
        return self._images
