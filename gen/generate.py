"""Clone a data set: prompts and plan from class names, images through compiled engines, shards on disk or in an object store.

    synthclone generate --engines DIR --classes digits --prompt c,d --guidance 2 --solver ddim --steps 20 \\
        --per-class 100 --seed 0 --output DIR
    synthclone generate ... --distributor local --workers 8          one process per GPU of this machine
    synthclone generate ... --distributor ray                        every GPU of a Ray cluster
    torchrun --nproc-per-node 8 gen/generate.py ...                  ranks share the shards; srun as well

Run it again after any interruption: finished shards stay, those in hand are made anew, and the bytes are those of an
unbroken run, for an image depends on nothing but its class, its serial number and the seed.
"""

import sys
from collections.abc import Sequence

from tqdm import tqdm

from synthclone.engines import backend
from synthclone.engines.command import run
from synthclone.export.pipeline import describe_pipeline
from synthclone.gen import card, production, shards, storage, timeline
from synthclone.gen.config import PRESETS, GenerateConfig, make_plan
from synthclone.gen.launch import Launch
from synthclone.gen.local_workers import generate_locally
from synthclone.gen.manifest import identity, recorded_batch, start_dataset
from synthclone.gen.plan import Plan
from synthclone.gen.production import plan_dataset
from synthclone.gen.progress import WorkerProgress, image_bar
from synthclone.gen.ray_workers import generate_on_ray
from synthclone.gen.shard_queue import ShardQueue
from synthclone.gen.tokens import load_tokenizer, warn_of_long_prompts


def main(config: GenerateConfig) -> None:
    """Make every shard that is not there yet."""
    launch, plan = Launch.of_environment(), make_plan(config)
    if launch.rank == 0:
        warn_of_long_prompts(plan, config.negative_prompt, load_tokenizer(config.engines))
    generate(config, plan, launch)


def generate(config: GenerateConfig, plan: Plan, launch: Launch) -> None:
    """Make a plan's shards, as far as they are not there yet, in the way that the configuration asks for."""
    launch.check(config.distributor)
    target = storage.at(config.output)
    # From the engines' descriptions: a mistake is better known before anything is loaded, and when nothing is left to do.
    manifest = plan_dataset(config, plan, describe_pipeline(config.engines), config.batch or recorded_batch(target))
    if any(name == shards.MANIFEST or name.endswith(".tar") for name in target.sizes()):
        start_dataset(target, manifest)  # goes on
    storage.sweep(target)
    mine = set(range(launch.rank, plan.num_shards, launch.world_size))
    todo = sorted(mine - shards.finished(target, identity(manifest)))
    with image_bar(plan, mine, mine - set(todo), place=launch.local_rank) as bar:
        if todo and config.distributor == "none":
            generate_here(config, plan, launch, todo, bar)
        elif todo:
            distribute = generate_locally if config.distributor == "local" else generate_on_ray
            distribute(config, plan, ShardQueue(todo, retries=config.retries), WorkerProgress(bar))
    finish(config, plan, launch)


def generate_here(config: GenerateConfig, plan: Plan, launch: Launch, todo: Sequence[int], bar: tqdm) -> None:
    """Make shards in this process."""
    recorded = timeline.Timeline(recording=config.profile is not None)
    profile = launch.own_file(config.profile) if config.profile else None
    if profile is not None:
        timeline.write_trace([], profile)  # a path that cannot be written is better known now
    maker = production.open_maker(
        config, plan, backend.pick_device(launch.device(config.device)), on_images=bar.update, timeline=recorded
    )
    try:
        for _ in maker.make(todo):
            pass
    finally:  # also of a run that was interrupted
        if profile is not None:
            spans = recorded.collect()
            timeline.write_trace(spans, profile)
            print(timeline.table(spans), file=sys.stderr)


def finish(config: GenerateConfig, plan: Plan, launch: Launch) -> None:
    """Write the card if all shards are there; say how far the data set is."""
    target = storage.at(config.output)
    markers = shards.markers(target, target.sizes())
    if len(markers) == plan.num_shards:
        card.write_card(target, shards.read_manifest(target), markers)
        print(f"{config.output}: {plan.num_images} images of {len(plan.classes)} classes in {plan.num_shards} shards")
    else:
        print(
            f"{config.output}: {len(markers)} of {plan.num_shards} shards are there; rank {launch.rank} of "
            f"{launch.world_size} has made its own, and the others are left to their ranks, or to another run"
        )


def command(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(GenerateConfig, main, prog="synthclone generate", argv=argv, presets=PRESETS)


if __name__ == "__main__":
    sys.exit(command())
