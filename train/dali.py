"""DALI, imported when it is used: half a second, and an extra of the installation."""

from importlib import import_module
from typing import Any


def load_dali() -> tuple[Any, Any, Any]:
    """DALI's operators, its types, and its module.

    Raises:
        ValueError: DALI is not installed; the message names the extra.
    """
    try:
        dali: Any = import_module("nvidia.dali")
        return import_module("nvidia.dali.fn"), import_module("nvidia.dali.types"), dali
    except ImportError as error:
        raise ValueError(
            f"DALI cannot be loaded ({error}); pip install 'synthclone[cpu]' or 'synthclone[gpu]'"
        ) from error
