"""DALI, imported when it is used: half a second, and an extra of the installation.

Its modules are handed to the functions that make a graph, since DALI rewrites those functions (for their `if`s) and
cannot rewrite an import.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Dali:
    """The parts of DALI that graphs are made of."""

    fn: Any
    types: Any
    pipeline_def: Callable[..., Any]

    @staticmethod
    def decoder(device_id: int | None) -> str:
        """The device of an image decoder: `mixed` takes bytes on the host and leaves pixels on the GPU."""
        return "cpu" if device_id is None else "mixed"


def load_dali() -> Dali:
    """Import DALI.

    Raises:
        ValueError: DALI is not installed; the message names the extra.
    """
    try:
        fn, types = import_module("nvidia.dali.fn"), import_module("nvidia.dali.types")
        return Dali(fn=fn, types=types, pipeline_def=import_module("nvidia.dali").pipeline_def)
    except ImportError as error:
        raise ValueError(
            f"DALI cannot be loaded ({error}); pip install 'synthclone[cpu]' or 'synthclone[gpu]'"
        ) from error
