"""Prompts from class entries: the paper's four variants (section 4) or a template of one's own.

    c                {c}                    papillon
    c,h              {c}, {h}               papillon, toy spaniel
    c,d              {c}, {d}               papillon, small slender toy spaniel with erect ears and a black-spotted ...
    c,h-inside-b     {c}, {h} inside {b}    papillon, toy spaniel inside attic          (b runs over a list of scenes)

c is the class's name, h its hypernym, d its definition, b a background. `{{` and `}}` stand for braces.
Pure functions; which scene an image gets is the plan's business.
"""

from functools import cache
from string import Formatter
from typing import Literal, get_args

from synthclone.gen.classes import ClassEntry

PromptVariant = Literal["c", "c,h", "c,d", "c,h-inside-b"]
"""The four variants by the paper's letters: class, hypernym, definition, background."""

VARIANTS: tuple[PromptVariant, ...] = get_args(PromptVariant)
TEMPLATES: dict[PromptVariant, str] = {
    "c": "{c}",
    "c,h": "{c}, {h}",
    "c,d": "{c}, {d}",
    "c,h-inside-b": "{c}, {h} inside {b}",
}
CLASS_WORDS = {"c": "name", "h": "hypernym", "d": "definition"}


@cache
def fields(template: str) -> frozenset[str]:
    """The fields that a template names.

    Raises:
        ValueError: a field that there is not, a template that no class fits into, or braces that do not match.
    """
    try:
        parts = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}; write {{{{ and }}}} for braces") from error
    found = set()
    for name, spec, conversion in parts:
        if name is None:
            continue
        if name not in {*CLASS_WORDS, "b"} or spec or conversion:
            raise ValueError(
                f"template {template!r}: unknown field {{{name}}}; valid: {{c}} class, {{h}} hypernym, "
                "{d} definition, {b} background"
            )
        found.add(name)
    if not found & set(CLASS_WORDS):
        raise ValueError(f"template {template!r} says nothing of the class; give it {{c}}, {{h}} or {{d}}")
    return frozenset(found)


def prompt(entry: ClassEntry, template: str, background: str | None = None) -> str:
    """The prompt of a class.

    Args:
        entry: the class.
        template: with fields c, h, d and b, such as a value of `TEMPLATES`.
        background: the scene's name; needed by, and only by, templates with {b}.

    Raises:
        ValueError: the class has no hypernym or definition to fill the template with.
    """
    named = fields(template)
    if ("b" in named) != (background is not None):
        raise ValueError(f"template {template!r} and background {background!r} do not go together")
    words = {field: _required(entry, word, template) for field, word in CLASS_WORDS.items() if field in named}
    return template.format(**words, b=background)


def _required(entry: ClassEntry, word: str, template: str) -> str:
    value: str | None = getattr(entry, word)
    if not value:
        yaml_field = "description" if word == "definition" else word
        variant = next((name for name, text in TEMPLATES.items() if text == template), template)
        raise ValueError(
            f"class {entry.key!r} has no {word}, which prompt {variant} needs; "
            f"add `{yaml_field}:` to its entry, or use --prompt c"
        )
    return value
