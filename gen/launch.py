"""Which process of several this one is, by the environment that torchrun, DeepSpeed or Slurm's srun set."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NAMES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))
"""Of Slurm's the step's own number of tasks: a batch script is no rank, though it has the job's number and a rank of 0."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """This process among its peers; they need not talk to each other."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> "Launch":
        """The first launcher whose three variables are all set; one process by itself if there is none.

        Raises:
            ValueError: they are no numbers, or do not fit each other.
        """
        for names in NAMES:
            values = [environment.get(name, "") for name in names]
            if all(values):
                try:
                    rank, world_size, local_rank = map(int, values)
                except ValueError as error:
                    raise ValueError(
                        f"{', '.join(names)} are {', '.join(values)}, but must be whole numbers"
                    ) from error
                if not 0 <= rank < world_size:
                    raise ValueError(f"{names[0]} is {rank}, but must be below {names[1]}, {world_size}")
                return cls(rank=rank, world_size=world_size, local_rank=local_rank)
        return cls()

    def device(self, wanted: str) -> str:
        """The device that this process takes where the user leaves the choice: the GPU of its local rank."""
        if wanted not in {"auto", "cuda"}:
            return wanted
        import torch

        if not torch.cuda.is_available():
            return wanted
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"

    def check(self, distributor: str) -> None:
        """Refuse what would start the same workers in every rank.

        Raises:
            ValueError: the message says which of the two to leave out.
        """
        if distributor == "ray" and self.world_size > 1:
            raise ValueError(
                f"--distributor ray hands out the shards itself, but this is one of {self.world_size} ranks; start it once, "
                "without torchrun or srun"
            )
        if distributor == "local" and self.local_rank > 0:
            raise ValueError(
                "--distributor local starts a process for each GPU of a machine itself, but a launcher has started several "
                "on this one; start one a machine (--nproc-per-node 1, --ntasks-per-node 1), or leave out --distributor"
            )

    def own_file(self, path: Path) -> Path:
        """The path itself, or, among several ranks, one that bears the rank."""
        return path if self.world_size == 1 else path.with_stem(f"{path.stem}-{self.rank}")
