"""The ranks of a run: by the DeepSpeed launcher's or torchrun's environment, or one process by itself.

Without a GPU, DeepSpeed is told so (`DS_ACCELERATOR=cpu`) and ranks talk by gloo; with GPUs by NCCL.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Rank:
    """This process among its peers."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device


def join() -> Rank:
    """Start or find the process group. A process without a launcher becomes the only rank."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed  # two seconds of import, and it probes the machine

    deepspeed.utils.logger.setLevel(logging.WARNING)
    # On a CPU, DeepSpeed would compile its shared-memory collectives first: over a minute, and a C++ compiler is needed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        with alone_unless_launched():
            deepspeed.init_distributed(
                dist_backend="nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False, verbose=False
            )
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))  # DeepSpeed's engine insists on it
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Rank(
        rank=torch.distributed.get_rank(),
        local_rank=local_rank,
        world_size=torch.distributed.get_world_size(),
        device=device,
    )


@contextmanager
def alone_unless_launched() -> Iterator[None]:
    """The environment of a single rank where no launcher has set one; it is gone afterwards, for child processes."""
    if "RANK" in os.environ:
        yield
        return
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    before = {name: os.environ.get(name) for name in alone}
    os.environ.update({name: str(value) for name, value in alone.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def without_launcher_options(argv: Sequence[str]) -> list[str]:
    """Arguments without the `--local_rank=N` that the DeepSpeed launcher adds; the environment says the same."""
    return [argument for argument in argv if not argument.startswith(("--local_rank=", "--local-rank="))]


def reduce_sum(values: Sequence[float], rank: Rank) -> list[float]:
    """Sums over all ranks."""
    total = torch.tensor(values, dtype=torch.float64, device=rank.device)
    torch.distributed.all_reduce(total)
    return [float(value) for value in total]


def reduce_min(value: int, rank: Rank) -> int:
    """The smallest value of any rank."""
    least = torch.tensor(value, device=rank.device)
    torch.distributed.all_reduce(least, op=torch.distributed.ReduceOp.MIN)
    return int(least)
