"""`--distributor local` and ranks: the same bytes as one process, whoever dies; and what cannot be mended."""

import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from broken_runs import children, digests, start, wait_for_shards, words
from support import run_command
from tqdm import tqdm

from synthclone.gen.generate import command as generate
from synthclone.gen.local_workers import FLUSH, Supervisor, Worker
from synthclone.gen.progress import WorkerProgress
from synthclone.gen.shard_queue import ShardQueue


@pytest.mark.parametrize("batch", [1, 7])
def test_the_batch_does_not_show(engines, unbroken, tmp_path, batch):
    """On ONNX Runtime's CPU provider in fp32, whose rows do not depend on the batch."""
    assert run_command(generate, *words(engines, tmp_path / "set", "--batch", batch)) == 0
    assert digests(tmp_path / "set") == unbroken


def test_local_workers_are_killed_and_replaced(engines, unbroken, tmp_path):
    folder, chance, killed = tmp_path / "set", random.Random(1), 0
    process = start(*words(engines, folder, "--distributor", "local", "--workers", 2))
    for shards_before in (1, 4):
        wait_for_shards(folder, shards_before, process)
        workers = children(process)
        if workers:
            chance.choice(workers).kill()
            killed += 1
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert killed == 2 and "workers lost: " in output
    assert digests(folder) == unbroken


def test_the_supervisor_is_killed_and_takes_its_workers_along(engines, unbroken, tmp_path):
    folder = tmp_path / "set"
    process = start(*words(engines, folder, "--distributor", "local", "--workers", 2))
    wait_for_shards(folder, 2, process)
    workers = children(process)
    process.kill()
    process.communicate()
    assert workers and psutil.wait_procs(workers, timeout=30)[1] == []
    assert run_command(generate, *words(engines, folder, "--distributor", "local", "--workers", 2)) == 0
    assert digests(folder) == unbroken


def test_two_runs_at_once_on_the_same_output(engines, unbroken, tmp_path):
    runs = [start(*words(engines, tmp_path / "set", "--batch", batch)) for batch in (8, 5)]
    for run in runs:
        output, _ = run.communicate(timeout=120)
        assert run.returncode == 0, output
    assert digests(tmp_path / "set") == unbroken
    assert not list((tmp_path / "set").glob(".*"))


def test_ctrl_c_ends_with_130_and_leaves_whole_shards(engines, unbroken, tmp_path):
    folder = tmp_path / "set"
    for more in ((), ("--distributor", "local", "--workers", 2)):
        process = start(*words(engines, folder, *more))
        wait_for_shards(folder, 2 if not more else 5, process)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
        assert "Traceback" not in output and "run the same command again to go on" in output.splitlines()[-1]
    kept = digests(folder)
    assert {name: unbroken[name] for name in kept} == kept and kept
    assert run_command(generate, *words(engines, folder)) == 0
    assert digests(folder) == unbroken


def test_ranks_of_a_launcher_share_the_shards(engines, unbroken, tmp_path):
    """As torchrun and srun set them; the ranks need not run at the same time."""
    for environment in (
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"},
    ):
        process = start(*words(engines, tmp_path / "set"), **environment)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        if environment.get("RANK"):
            assert len(digests(tmp_path / "set")) == 18
            assert "6 of 12 shards are there; rank 0 of 2 has made its own" in output
    assert digests(tmp_path / "set") == unbroken


def test_a_users_mistake_in_a_worker_is_one_line(engines, tmp_path, capsys):
    arguments = words(engines, tmp_path / "set", "--distributor", "local", "--workers", 2, "--batch", 100)
    assert run_command(generate, *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("synthclone generate: error: --batch 100 is over the engines' maximum 8")


def test_a_worker_that_dies_again_and_again_stops_the_run(engines, tmp_path):
    """It is killed each time it has begun; the message names the shard."""
    folder = tmp_path / "set"
    process = start(*words(engines, folder, "--distributor", "local", "--workers", 1, "--retries", 2, "--steps", 200))
    seen = set()
    while process.poll() is None and len(seen) < 2:
        for worker in children(process):
            # The manifest is written before the first shard is asked for.
            if worker.pid not in seen and (folder / "dataset.json").exists() and worker.cpu_times().user > 4:
                seen.add(worker.pid)
                worker.kill()
        time.sleep(0.05)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert "2 workers died while they made shard 000000" in output.splitlines()[-1]


def test_local_workers_of_a_rank_make_its_share(engines, unbroken, tmp_path, monkeypatch, capsys):
    for rank in ("0", "1"):
        for name, value in {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        folder = tmp_path / "set"
        assert run_command(generate, *words(engines, folder, "--distributor", "local", "--workers", 1)) == 0
        assert len(digests(folder)) == 18 * (int(rank) + 1)
    assert digests(folder) == unbroken
    monkeypatch.setenv("LOCAL_RANK", "1")
    for distributor, message in (("local", "start one a machine"), ("ray", "start it once")):
        assert run_command(generate, *words(engines, folder, "--distributor", distributor)) == 2
        assert message in capsys.readouterr().err


class StubProcess:
    """A worker's process as a supervisor handles it."""

    def __init__(self):
        self.exitcode, self.killed = -9, False

    def join(self, timeout=None):
        assert timeout is not None or self.killed  # never an endless wait for one that may live

    def kill(self):
        self.killed = True


def test_a_dead_idle_worker_is_not_taken_for_the_one_that_speaks(monkeypatch):
    """Its end of the pipe is closed, but the supervisor has not read that yet."""
    progress = WorkerProgress(tqdm(total=2, file=io.StringIO()))
    supervisor = Supervisor(SimpleNamespace(workers=2), None, ShardQueue([0], retries=3), progress)
    started = []
    monkeypatch.setattr(supervisor, "_start", started.append)
    pipes = [multiprocessing.Pipe() for _ in range(2)]
    dead, live = (Worker(place, StubProcess(), ours) for place, (ours, _) in enumerate(pipes))
    supervisor.workers, dead.wants = [dead, live], True
    for worker in (dead, live):
        progress.ready(worker.place)
    pipes[0][1].close()
    supervisor._hear(live, "next", None)  # shard 0 goes to the dead one
    assert supervisor.workers == [dead, live] and pipes[1][1].recv() == FLUSH and not started
    supervisor._replace(dead)
    assert started == [0] and supervisor.workers == [live] and dead.process.killed
    supervisor._hear(live, "images", 1)
    assert pipes[1][1].recv() == 0  # it waits for one still


def test_s3_with_one_request_in_five_failing(engines, unbroken, tmp_path):
    """Two workers, one of them killed; then the set is copied back and compared."""
    from faulty_s3 import faulty_s3

    with faulty_s3(rate=0.2) as s3:
        location = f"{s3.bucket}/set"
        process = start(*words(engines, location, "--distributor", "local", "--workers", 2), **s3.environment)
        while sum(method == "PUT" and ".tar" in path for method, path in s3.log) < 3 and process.poll() is None:
            time.sleep(0.02)
        for worker in children(process)[:1]:
            worker.kill()
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        assert s3.requests > 60 and s3.faults >= s3.requests // 5 - 1
        copy = "import sys; from synthclone.gen import storage; source, there = storage.at(sys.argv[1]), storage.at(sys.argv[2]);"
        copy += "[there.write(name, source.read(name)) for name in source.sizes()]"
        subprocess.run(
            [sys.executable, "-c", copy, location, str(tmp_path)], env=os.environ | s3.environment, check=True
        )
    assert digests(tmp_path) == unbroken
    assert (tmp_path / "README.md").is_file() and (tmp_path / "croissant.json").is_file()
