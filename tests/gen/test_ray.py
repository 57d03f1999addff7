"""`--distributor ray`: the same bytes as one process, whichever actor dies."""

import io
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
from broken_runs import digests, words
from support import run_command
from tqdm import tqdm

from synthclone.gen import ray_workers
from synthclone.gen.generate import command as generate
from synthclone.gen.progress import WorkerProgress
from synthclone.gen.shard_queue import ShardQueue, WorkersLostError


@pytest.fixture(scope="module")
def ray_cluster():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="error")
    yield ray
    ray.shutdown()


def test_ray_actors_are_killed_and_replaced(engines, unbroken, tmp_path, ray_cluster):
    folder = tmp_path / "set"
    killed = []

    def kill_one():
        while not killed:
            if len(list(folder.glob("[0-9]*.tar"))) >= 2:
                actors = [
                    worker
                    for worker in psutil.Process().children(recursive=True)
                    if "ray::Maker" in " ".join(worker.cmdline())
                ]
                if actors:
                    actors[0].kill()
                    killed.append(actors[0].pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    assert run_command(generate, *words(engines, folder, "--distributor", "ray", "--workers", 2)) == 0
    killer.join()
    assert digests(folder) == unbroken


def test_an_actor_that_raises_is_replaced(engines, unbroken, tmp_path, ray_cluster, monkeypatch):
    """As one whose GPU has run out of memory."""
    flag = str(tmp_path / "raised")

    class Failing(ray_workers.Maker):
        def make(self, numbers):
            import pathlib

            if not pathlib.Path(flag).exists():
                pathlib.Path(flag).touch()
                raise RuntimeError("CUDA error: out of memory")
            return super().make(numbers)

    monkeypatch.setattr(ray_workers, "Maker", Failing)
    folder = tmp_path / "set"
    assert run_command(generate, *words(engines, folder, "--distributor", "ray", "--workers", 1)) == 0
    assert digests(folder) == unbroken
    monkeypatch.setattr(Failing, "make", lambda self, numbers: 1 / 0)
    with pytest.raises(WorkersLostError, match=r"2 workers died while they made shard 000000.*ZeroDivisionError"):
        queue, progress = ShardQueue(range(2), retries=2), WorkerProgress(tqdm(total=2, file=io.StringIO()))
        ray_workers.generate_on_ray(SimpleNamespace(workers=1), SimpleNamespace(), queue, progress)


def test_a_users_mistake_in_an_actor_is_one_line(engines, tmp_path, capsys, ray_cluster):
    arguments = words(engines, tmp_path / "set", "--distributor", "ray", "--workers", 1, "--batch", 100)
    assert run_command(generate, *arguments) == 2
    assert "--batch 100 is over the engines' maximum 8" in capsys.readouterr().err
