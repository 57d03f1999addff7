"""Prompts that are longer than the text encoder reads: what is beyond its 77 tokens has no effect on the image.

With a tokenizer tokens are counted. Without one there is a lower bound: CLIP's tokenizer never joins words, numerals or
runs of punctuation, and adds a token at either end.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from synthclone.gen.plan import Plan

MAX_TOKENS = 77
NUM_LISTED = 5
CHUNK = 4096
PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


def load_tokenizer(engines: Path) -> Any:
    """The tokenizer that lies beside a folder of engines.

    Raises:
        ValueError: there is none.
    """
    from transformers import CLIPTokenizer

    if not (engines / "tokenizer").is_dir():
        raise ValueError(
            f"{engines} holds no engines (no tokenizer); make them with `synthclone build --output {engines}`"
        )
    return CLIPTokenizer.from_pretrained(engines / "tokenizer", local_files_only=True)


def lengths(prompts: Iterable[str], tokenizer: Any | None) -> Iterable[tuple[str, int]]:
    """Each prompt with its number of tokens, or, without a tokenizer, with the fewest that it can have."""
    remaining = iter(prompts)
    while chunk := list(islice(remaining, CHUNK)):
        if tokenizer is None:
            yield from ((prompt, len(PIECES.findall(prompt)) + 2) for prompt in chunk)
        else:
            tokens = tokenizer(chunk, truncation=False, verbose=False).input_ids
            yield from ((prompt, len(ids)) for prompt, ids in zip(chunk, tokens, strict=True))


def too_long(prompts: Iterable[str], tokenizer: Any | None, maximum: int = MAX_TOKENS) -> list[tuple[str, int]]:
    """The distinct prompts over the maximum, with their tokens."""
    return list({prompt: count for prompt, count in lengths(prompts, tokenizer) if count > maximum}.items())


def used_prompts(plan: Plan) -> Iterator[str]:
    """Every prompt that some image has, class by class, so that they never all lie in memory; classes may share some."""
    for label in range(len(plan.classes)):
        yield from plan.used_prompts(label)


def num_distinct(prompts: Iterable[str]) -> int:
    """How many different ones there are, by their 64-bit hashes."""
    return len(np.unique(np.fromiter(map(hash, prompts), dtype=np.int64)))


def warn_of_long_prompts(plan: Plan, negative_prompt: str, tokenizer: Any, maximum: int = MAX_TOKENS) -> None:
    """Say on stderr how many prompts will be cut, and some of them."""
    found = too_long(chain(used_prompts(plan), [negative_prompt]), tokenizer, maximum)
    if found:
        print(f"warning: {describe_long(found, maximum)}", file=sys.stderr)


def describe_long(found: list[tuple[str, int]], maximum: int = MAX_TOKENS) -> str:
    """How many prompts are too long, and some of them, on lines of their own."""
    noun = "prompt is" if len(found) == 1 else "prompts are"
    lines = [f"{len(found)} {noun} longer than {maximum} tokens; what is beyond has no effect on the image"]
    lines += [f"  {count} tokens: {prompt}" for prompt, count in found[:NUM_LISTED]]
    if len(found) > NUM_LISTED:
        lines.append(f"  and {len(found) - NUM_LISTED} more")
    return "\n".join(lines)
