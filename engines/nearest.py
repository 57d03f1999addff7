"""The end of an error message: which of the valid words look most like the one that was given."""

from collections.abc import Collection
from difflib import get_close_matches


def nearest(word: str, valid: Collection[str]) -> str:
    """A question that names up to three valid words; empty if none looks like the one given."""
    near = get_close_matches(word, list(valid), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
