"""Prompts from class entries: the paper's four variants (section 4).

    c                papillon
    c,h              papillon, toy spaniel
    c,d              papillon, small slender toy spaniel with erect ears and a black-spotted brown to white coat
    c,h-inside-b     papillon, toy spaniel inside attic          (b runs over a list of scenes)

Pure functions; which scene an image gets is the plan's business.
"""

from typing import Literal, get_args

from synthclone.gen.classes import ClassEntry

PromptVariant = Literal["c", "c,h", "c,d", "c,h-inside-b"]
"""The four variants by the paper's letters: class, hypernym, definition, background."""

VARIANTS: tuple[PromptVariant, ...] = get_args(PromptVariant)


def prompt(entry: ClassEntry, variant: PromptVariant, background: str | None = None) -> str:
    """The prompt of a class.

    Args:
        entry: the class.
        variant: which of the four.
        background: the scene's name; needed by, and only by, "c,h-inside-b".

    Raises:
        ValueError: the class has no hypernym or definition to fill the variant with.
    """
    if (variant == "c,h-inside-b") != (background is not None):
        raise ValueError(f"prompt variant {variant} and background {background!r} do not go together")
    if variant == "c":
        return entry.name
    if variant == "c,d":
        return f"{entry.name}, {_required(entry, 'definition', variant)}"
    with_hypernym = f"{entry.name}, {_required(entry, 'hypernym', variant)}"
    return with_hypernym if background is None else f"{with_hypernym} inside {background}"


def _required(entry: ClassEntry, field: str, variant: PromptVariant) -> str:
    value: str | None = getattr(entry, field)
    if not value:
        yaml_field = "description" if field == "definition" else field
        raise ValueError(
            f"class {entry.key!r} has no {field}, which prompt {variant} needs; "
            f"add `{yaml_field}:` to its entry, or use --prompt c"
        )
    return value
