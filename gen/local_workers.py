"""`--distributor local`: one process per GPU of this machine, shards handed out as they are asked for.

A worker asks for the next shard when the images of its earlier ones are all under way, so that its batches run across
shards. Told that there is none, it finishes what it has and waits: a lost worker may leave it more. Workers talk to the
supervisor through a pipe each; one that dies by any cause closes its pipe, and a new one takes its place.

    worker -> supervisor   ("ready", None) ("next", None) ("images", how many so far) ("done", number) ("mistake", text)
    supervisor -> worker   a shard's number, FLUSH, or STOP
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from synthclone.engines.command import USER_MISTAKES
from synthclone.gen.config import GenerateConfig
from synthclone.gen.plan import Plan
from synthclone.gen.progress import WorkerProgress
from synthclone.gen.shard_queue import ShardQueue

FLUSH, STOP = -1, -2
DYING_S = 10.0
"""For a process whose pipe is closed to end by itself."""


def generate_locally(config: GenerateConfig, plan: Plan, queue: ShardQueue, progress: WorkerProgress) -> None:
    """Make the queue's shards with `config.workers` processes.

    Raises:
        ValueError: what a worker found wrong with the options, the engines or the data set.
        WorkersLostError: workers die again and again.
    """
    supervisor = Supervisor(config, plan, queue, progress)
    try:
        supervisor.run()
    finally:
        supervisor.end()


@dataclass(eq=False)
class Worker:
    """A process as the supervisor sees it."""

    place: int
    process: BaseProcess
    connection: Connection
    wants: bool = False
    """Has asked for a shard and got none."""


class Supervisor:
    """Starts workers, answers them, and replaces those that die."""

    def __init__(self, config: GenerateConfig, plan: Plan, queue: ShardQueue, progress: WorkerProgress) -> None:
        self.config, self.plan, self.queue, self.progress = config, plan, queue, progress
        self.count = config.workers or num_gpus() or 1
        self.workers: list[Worker] = []

    def run(self) -> None:
        """Until every shard is done. The first worker starts the data set; the others follow when it has."""
        if self.queue.finished:
            return
        self._start(0)
        while not self.queue.finished:
            ready = wait([worker.connection for worker in self.workers])
            for worker in [worker for worker in self.workers if worker.connection in ready]:
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):  # also in the middle of a message
                    self._replace(worker)
                else:
                    self._hear(worker, *message)

    def _hear(self, worker: Worker, kind: str, value: Any) -> None:
        if kind == "mistake":
            raise ValueError(value)
        if kind == "ready":
            self.progress.ready(worker.place)
            if worker.place == 0 and len(self.workers) < self.count:
                for place in range(1, self.count):
                    self._start(place)
        elif kind == "images":
            self.progress.made(worker.place, value)
        elif kind == "done":
            self.queue.done(worker, value)
            self.progress.finished(worker.place, len(self.plan.shard_indices(value)))
        elif kind == "next":
            worker.wants = True
        for waiting in self.workers:
            if waiting.wants and (number := self.queue.take(waiting)) is not None:
                waiting.wants = False
                self._tell(waiting, number)
        if kind == "next" and worker.wants and self.queue.empty:
            self._tell(worker, FLUSH)  # it stays wanting: its next word is "done", or nothing at all

    def _tell(self, worker: Worker, order: int) -> None:
        """Send an order. To one that has just died it is lost, and the end of its pipe, which is read soon, tells that."""
        with suppress(OSError):
            worker.connection.send(order)

    def _replace(self, worker: Worker) -> None:
        worker.process.join(DYING_S)
        worker.process.kill()  # its pipe is closed; it may still hang in a driver
        worker.process.join()
        worker.connection.close()
        self.workers.remove(worker)
        self.progress.died(worker.place)
        self.queue.lost(worker, f"exit code {worker.process.exitcode}")
        self._start(worker.place)

    def _start(self, place: int) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(self.config, self.plan, place, self.count, theirs), daemon=True)
        process.start()
        theirs.close()
        self.workers.append(Worker(place, process, ours))

    def end(self) -> None:
        """Let idle workers go, and stop the others: what they have in hand is made anew by the next run."""
        for worker in self.workers:
            self._tell(worker, STOP)
        for worker in self.workers:
            if self.queue.finished:
                worker.process.join(timeout=30)
            worker.process.terminate()
            worker.process.join()
            worker.connection.close()


def num_gpus() -> int:
    """GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def work(config: GenerateConfig, plan: Plan, place: int, count: int, connection: Connection) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    import torch

    from synthclone.engines import backend
    from synthclone.gen.launch import Launch
    from synthclone.gen.production import open_maker

    launch, link = Launch(rank=place, world_size=count, local_rank=place), Link(connection)
    try:
        device = backend.pick_device(launch.device(config.device))
        if device.type == "cpu":
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // count))
        maker = open_maker(config, plan, device, on_images=link.count)
        link.tell("ready", None)
        while not link.stopped:
            for number in maker.make(link.orders()):
                link.tell("done", number)
    except (EOFError, BrokenPipeError):
        return  # the supervisor is gone
    except USER_MISTAKES as error:
        link.tell("mistake", " ".join(str(error).split()))


class Link:
    """A worker's end of the pipe; several of its threads speak, one listens."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.lock = connection, threading.Lock()
        self.stopped = self.flushed = False
        self.images = 0

    def tell(self, kind: str, value: Any) -> None:
        """Send a message."""
        with self.lock:
            self.connection.send((kind, value))

    def count(self, images: int) -> None:
        """Tell how many images have come out of the U-Net, with these."""
        self.images += images
        self.tell("images", self.images)

    def orders(self) -> Iterator[int]:
        """Shard numbers, asked for one by one until there is nothing more to begin."""
        while True:
            if not self.flushed:  # else the question still stands
                self.tell("next", None)
            number = self.connection.recv()
            self.flushed, self.stopped = number == FLUSH, number == STOP
            if self.flushed or self.stopped:
                return
            yield number
