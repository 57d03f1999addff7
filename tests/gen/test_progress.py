"""Progress of several workers: the bar, rates of each, and what is taken back when one dies."""

import io

from tqdm import tqdm

from synthclone.gen.progress import WorkerProgress


def make():
    now = [0.0]
    bar = tqdm(total=100, file=io.StringIO())
    return WorkerProgress(bar, clock=lambda: now[0]), bar, now


def test_rates_of_each_worker_and_what_a_dead_one_had_in_hand():
    progress, bar, now = make()
    progress.ready(0)
    now[0] = 10.0
    progress.ready(1)
    now[0] = 20.0
    progress.made(0, 40)
    progress.made(1, 30)
    assert bar.n == 70 and str(progress) == "worker 0 2.0/s, worker 1 3.0/s"
    progress.finished(1, 20)
    assert bar.n == 70
    progress.died(1)
    assert bar.n == 60 and str(progress) == "worker 0 2.0/s, workers lost: 1"
    progress.ready(1)
    progress.made(1, 5)
    assert bar.n == 65
    progress.finished(1, 10)  # word of the shard came first
    progress.made(1, 10)
    assert bar.n == 70


def test_many_workers_are_shown_by_the_slowest_and_the_fastest():
    progress, _, now = make()
    for place in range(8):
        progress.ready(place)
    now[0] = 2.0
    for place in range(8):
        progress.made(place, place + 1)
    assert str(progress) == "8 workers at 0.5 to 4.0/s"


def test_a_worker_that_died_before_it_was_ready_is_counted():
    progress, bar, _ = make()
    progress.died(3)
    assert bar.n == 0 and str(progress) == "workers lost: 1"
