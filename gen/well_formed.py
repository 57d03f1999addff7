"""Whether a data set's JSON is well formed: types, and keys that are to become names of files and folders.

`shards.py`, `reading.py` and `verify_shard.py` ask here where they read, so that nothing behind them meets a string for a
number or writes outside the folder it was given. A fault is the end of a sentence ("has num_images '12' instead of a
whole number"): whoever reads the file puts its name before it and the mend behind it. What is not listed is not looked at.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

Kind = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words, and whether it is."""
Kinds = dict[str, Kind]
"""By field; one whose name ends in "?" may be absent."""


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 0 on."""
    return type(value) is int and value >= 0  # a bool is an int too


def is_name(value: Any) -> bool:
    """Whether it can be a file's name and nothing else: one component of a path, not hidden."""
    return isinstance(value, str) and re.fullmatch(r"[^./\\\0][^/\\\0]*", value) is not None


def _all(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(holds, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_size(value: Any) -> bool:
    return is_count(value) and value > 0


COUNT: Kind = "a whole number", is_count
POSITIVE: Kind = "a whole number from 1 on", _is_size
INTEGER: Kind = "a whole number", lambda value: type(value) is int
NUMBER: Kind = "a number", lambda value: type(value) in {int, float}
BOOL: Kind = "true or false", lambda value: isinstance(value, bool)
TEXT: Kind = "a string", _is_text
TEXT_OR_NULL: Kind = "a string or null", lambda value: value is None or isinstance(value, str)
TEXTS: Kind = "a list of strings", lambda value: _all(value, _is_text)
SOME_TEXTS: Kind = "a list of one or more strings", lambda value: _all(value, _is_text) and bool(value)
OBJECT: Kind = "a JSON object", lambda value: isinstance(value, dict)
TEXT_BY_NAME: Kind = (
    "a JSON object of strings",
    lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
)
LIST: Kind = "a list", lambda value: isinstance(value, list)
SHAPE: Kind = (
    "a whole number, or a list of height and width",
    lambda value: _is_size(value) or (_all(value, _is_size) and len(value) == 2),
)
SHA256: Kind = "a digest of 64 hex digits", lambda value: _is_text(value) and bool(re.fullmatch("[0-9a-f]{64}", value))
NAME: Kind = "a plain name, without / or \\ and with no dot in front", is_name

SAMPLE: Kinds = {"label": INTEGER, "class": TEXT, "attempt?": COUNT, "flagged?": BOOL}
MARKER: Kinds = {"count": COUNT, "bytes": COUNT, "sha256": SHA256, "flagged?": COUNT, "dataset?": TEXT}
MANIFEST: Kinds = {
    "classes": LIST,
    "name?": TEXT,
    "num_images?": COUNT,
    "num_shards?": COUNT,
    "image_size?": SHAPE,
    "sampling?": OBJECT,
    "sources?": LIST,
}
PARTS = {"jpeg": {"digital_source_type?": TEXT}, "safety_checker": {"folder": TEXT, "sha256": TEXT}}
CLASS: Kinds = {"key": NAME, "name?": TEXT, "label?": COUNT, "count?": COUNT, "captions?": SOME_TEXTS}
SOURCE: Kinds = {"num_shards": COUNT, "num_images": COUNT, "manifest": OBJECT}
GENERATED: Kinds = {
    "name": TEXT,
    "command": TEXT,
    "num_images": COUNT,
    "model": TEXT,
    "engines": TEXT_BY_NAME,
    "versions": OBJECT,
}
"""What the card tells of a set with `sampling`."""
PLANNED: Kinds = {"num_shards": COUNT, "shard_size": POSITIVE}
PLANNED_CLASS: Kinds = {"name": TEXT, "count": COUNT, "hypernym": TEXT_OR_NULL, "definition": TEXT_OR_NULL}
SAMPLING: Kinds = {
    "template": TEXT,
    "backgrounds": TEXTS,
    "prompt": TEXT,
    "negative_prompt": TEXT,
    "guidance": NUMBER,
    "guidance_interval": TEXT,
    "solver": TEXT,
    "steps": POSITIVE,
    "seed": INTEGER,
    "stored_size": COUNT,
    "quality": COUNT,
    "safety": TEXT,
    "height": COUNT,
    "width": COUNT,
    "batch": COUNT,
}
"""What the set is planned and made again from, where there is a template of its prompts."""


def fault(value: Any, kinds: Kinds) -> str | None:
    """What is wrong with a JSON object, or None."""
    if not isinstance(value, dict):
        return "is no JSON object"
    for field, (what, holds) in kinds.items():
        name = field.removesuffix("?")
        if name in value and not holds(value[name]):
            return f"has {name} {repr(value[name])[:80]} instead of {what}"
        if name == field and name not in value:
            return f"has no {name}"
    return None


def sample_fault(key: str, fields: Any) -> str | None:
    """What is wrong with a sample's key or JSON, or None."""
    return fault(fields, SAMPLE) if is_name(key) else f"has a key that is not {NAME[0]}"


def manifest_fault(manifest: Any) -> str | None:
    """What is wrong with the content of a `dataset.json`, those of merged sets included, or None."""
    if found := fault(manifest, MANIFEST):
        return found
    for name, kinds in PARTS.items():
        if name in manifest and (found := fault(manifest[name], kinds)):
            return f"has a {name} that {found}"
    generated, planned = "sampling" in manifest, "template" in manifest.get("sampling", {})
    if found := fault(manifest, (GENERATED if generated else {}) | (PLANNED if planned else {})):
        return found
    if planned and (found := fault(manifest["sampling"], SAMPLING)):
        return f"has a sampling that {found}"
    classes, sources = manifest["classes"], manifest.get("sources", [])
    for entry in classes:
        if found := fault(entry, CLASS | (PLANNED_CLASS if planned else {})):
            return f"has an entry of classes that {found}"
    for key, count in Counter(entry["key"] for entry in classes).items():
        if count > 1:
            return f"has class {key!r} more than once"
    if planned and len({"captions" in entry for entry in classes}) > 1:
        return "has captions of some classes only"
    for source in sources:
        if found := fault(source, SOURCE) or manifest_fault(source["manifest"]):
            return f"has an entry of sources that {found}"
    if sources and sum(source["num_shards"] for source in sources) != manifest.get("num_shards"):
        return f"has num_shards {manifest.get('num_shards')}, which is not the sum over its sources"
    return None
