"""`--distributor ray`: an actor per GPU anywhere in a Ray cluster, each given a few shards at a time.

    ray start --head                                      # or RAY_ADDRESS=HOST:6379 for a cluster that runs
    synthclone generate ... --distributor ray --workers 16 --output s3://bucket/set

Engines and output must be reachable from every node under the same path or URL. A lost actor's shards are given to
others and a new actor takes its place. Without a cluster Ray starts one on this machine.
"""

import logging
import os
from typing import Any

from tqdm import tqdm

from synthclone.engines.command import USER_MISTAKES
from synthclone.gen.config import GenerateConfig
from synthclone.gen.plan import Plan
from synthclone.gen.shard_queue import ShardQueue

SHARDS_AT_A_TIME = 2
"""So that most batches are full across shards, and a loss costs little."""


def generate_on_ray(config: GenerateConfig, plan: Plan, queue: ShardQueue, bar: tqdm) -> None:
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
    make_actor = ray.remote(num_gpus=1 if gpus else 0, max_restarts=0)(Maker).remote
    busy: dict[Any, tuple[int, list[int], Any]] = {}
    lost = 0

    def give(place: int, actor: Any) -> None:
        numbers = [number for _ in range(SHARDS_AT_A_TIME) if (number := queue.take(place)) is not None]
        if numbers:
            busy[actor.make.remote(numbers)] = (place, numbers, actor)

    try:
        for place in range(count):
            if not queue.empty:
                give(place, make_actor(config, plan))
        while busy:
            (task, *_), _ = ray.wait(list(busy), num_returns=1)
            place, numbers, actor = busy.pop(task)
            try:
                mistake = ray.get(task)
            except ray.exceptions.RayActorError as error:
                lost += 1
                bar.set_postfix({"workers lost": lost})
                queue.lost(place, str(error).splitlines()[0])
                actor = make_actor(config, plan)
            else:
                if mistake is not None:
                    raise ValueError(mistake)
                for number in numbers:
                    queue.done(place, number)
                    bar.update(len(plan.shard_indices(number)))
            give(place, actor)
    finally:
        for _, _, actor in busy.values():
            ray.kill(actor)


class Maker:
    """What an actor holds: engines, opened once."""

    def __init__(self, config: GenerateConfig, plan: Plan) -> None:
        self.config, self.plan = config, plan
        self.maker: Any = None

    def make(self, numbers: list[int]) -> str | None:
        """Make shards; returns the text of a user's mistake, or None.

        Mistakes are told, not raised: an actor that raises looks like one that is broken.
        """
        from synthclone.engines import backend
        from synthclone.gen.production import open_maker

        try:
            if self.maker is None:
                self.maker = open_maker(self.config, self.plan, backend.pick_device(self.config.device))
            for _ in self.maker.make(numbers):
                pass
        except USER_MISTAKES as error:
            return " ".join(str(error).split())
        return None
