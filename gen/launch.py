"""Which process of several this one is, by the environment that torchrun, DeepSpeed or Slurm's srun set."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

NAMES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))


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
