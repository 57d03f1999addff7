"""What several test files need and no fixture can give: places, and a command's exit code."""

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIGITS_MODEL = ROOT / "gen" / "models" / "digits"


def run_command(command: Callable[[list[str]], int], *words: object) -> int:
    """A command's exit code, whether it returns it or argparse exits with it."""
    try:
        return command([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code)
