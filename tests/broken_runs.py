"""Generations that are broken off and resumed: their options, their processes, and digests to compare."""

import hashlib
import os
import subprocess
import sys
import time

import psutil

OPTIONS = (
    "--classes digits --prompt c,d --guidance 2 --solver ddim --steps 6 --device cpu --per-class 12 --shard-size 10"
)


def words(engines, folder, *more):
    return ["--engines", str(engines), *OPTIONS.split(), "--output", str(folder), *map(str, more)]


def digests(folder):
    """Of everything but the manifest, which records the batch."""
    names = sorted(
        path for path in folder.iterdir() if path.suffix in {".tar", ".idx", ".json"} and path.stem.isdigit()
    )
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "synthclone.cli", "generate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )


def children(process):
    """The supervisor's workers, by what they were started to do."""
    try:
        return [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def wait_for_shards(folder, count, process):
    while len(list(folder.glob("[0-9]*.tar"))) < count and process.poll() is None:
        time.sleep(0.02)
