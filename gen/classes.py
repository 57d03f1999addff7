"""Class lists: what to clone, as data.

A list is a name (`digits`, `imagenet100`, `imagenet1k`, `places365`) or a path to the user's own file:
a `.txt` of WordNet ids, one a line ("#" starts a comment), or a `.yaml` list of
`{name: ..., description: ..., hypernym: ..., key: ...}` where only `name` is required. All are text that is not empty;
a key becomes a folder's name.

Classes are sorted by key, and a class's label is its rank: the same labels that an ImageFolder of the same keys gets.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import yaml

from synthclone.engines.nearest import nearest
from synthclone.gen import wordnet

DATA = Path(__file__).parent / "data" / "classes"
EXTENSIONS = (".txt", ".yaml", ".yml")
YAML_FIELDS = ("name", "description", "hypernym", "key")
FOLDER_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*")
Share = Literal["all", "first"]
"""How much of WordNet's words a prompt takes; the literal reading of the paper is all of them."""


@dataclass(frozen=True, kw_only=True)
class ClassEntry:
    """One class: the words that a prompt may use of it."""

    key: str
    """Folder name and sort key: a WordNet id, or a slug of the name."""
    name: str
    """"c" of the paper: the synset's lemmas, comma-separated (section 4.1)."""
    hypernym: str | None = None
    """"h_c": lemmas of the direct parents; None where the list gives none."""
    definition: str | None = None
    """"d_c": WordNet's definition or the list's description."""


def names() -> list[str]:
    """The lists that come with the package."""
    return sorted(path.stem for path in DATA.iterdir())


def load(source: str, lemmas: Share = "all", hypernyms: Share = "all") -> tuple[ClassEntry, ...]:
    """The classes of a named list or of a file, sorted by key; see `read_entries`.

    Raises:
        ValueError: as `read_entries`, or two entries have the same key.
    """
    entries = read_entries(source, lemmas, hypernyms)
    for entry, after in pairwise(entries):
        if entry.key == after.key:
            raise ValueError(f"{source}: class {entry.key!r} stands twice; remove one or give it a `key` of its own")
    return entries


def read_entries(source: str, lemmas: Share = "all", hypernyms: Share = "all") -> tuple[ClassEntry, ...]:
    """The entries of a named list or of a file, sorted by key; some may have the same.

    Args:
        source: name or path of the list.
        lemmas: which names of a synset, be it class or hypernym; for lists of WordNet ids.
        hypernyms: which direct hypernyms of a synset; for lists of WordNet ids.

    Raises:
        ValueError: unknown list, unreadable file, malformed entry, or a WordNet id that is not there.
    """
    path = Path(source)
    if re.fullmatch(r"[\w-]+", source):
        path = next(DATA.glob(f"{source}.*"), path)
    if not path.is_file():
        raise ValueError(
            f"unknown class list {source!r}: neither a file nor one of {', '.join(names())}{nearest(source, names())}"
        )
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise ValueError(f"{path}: lists are read from files that end in {', '.join(EXTENSIONS)}; rename it")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors begin a file with a byte order mark
        entries = _from_wnids(text, lemmas, hypernyms) if extension == ".txt" else _from_yaml(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not entries:
        raise ValueError(f"{path}: no classes in it; give one WordNet id a line, or a YAML list of names")
    return tuple(sorted(entries, key=lambda entry: entry.key))


def from_wnid(wnid: str, lemmas: Share = "all", hypernyms: Share = "all") -> ClassEntry:
    """A class from WordNet; by default read literally as the paper does: all lemmas, all direct hypernyms with all theirs."""
    take, take_parents = (None if share == "all" else 1 for share in (lemmas, hypernyms))
    node = wordnet.synset(wnid)
    parents = [lemma for parent in node.hypernyms()[:take_parents] for lemma in parent.lemmas[:take]]
    return ClassEntry(
        key=wnid,
        name=", ".join(node.lemmas[:take]),
        hypernym=", ".join(parents) or None,
        definition=node.definition,
    )


def same_names(entries: tuple[ClassEntry, ...]) -> dict[str, list[str]]:
    """Names borne by several classes (ImageNet's two cranes), with their keys: prompt "c" cannot tell them apart."""
    by_name: dict[str, list[str]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry.key)
    return {name: keys for name, keys in by_name.items() if len(keys) > 1}


def _from_wnids(text: str, lemmas: Share, hypernyms: Share) -> list[ClassEntry]:
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        wnid = line.partition("#")[0].strip()
        if wnid:
            try:
                entries.append(from_wnid(wnid, lemmas, hypernyms))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return entries


def _from_yaml(text: str) -> list[ClassEntry]:
    items = yaml.safe_load(text)
    if not isinstance(items, list):
        raise ValueError("expected a YAML list of entries with a `name`")
    return [_from_item(item, f"entry {number}") for number, item in enumerate(items, start=1)]


def _from_item(item: object, where: str) -> ClassEntry:
    fields = {"name": item} if isinstance(item, str) else item
    if not isinstance(fields, dict) or "name" not in fields:
        raise ValueError(f"{where}: {item!r} has no `name`; give it one, and quote numbers and yes/no")
    for field, value in fields.items():
        if field not in YAML_FIELDS:
            raise ValueError(f"{where}: unknown field {field!r}; valid: {', '.join(YAML_FIELDS)}")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(
                f"{where}: {field} is {value!r}, but must be text; quote numbers and yes/no, and leave out what is empty"
            )
    key = fields.get("key", re.sub(r"\W+", "_", fields["name"].strip().lower()))
    if not FOLDER_NAME.fullmatch(key):
        raise ValueError(f"{where}: key {key!r} cannot be a folder's name; leave out slashes and a leading dot")
    return ClassEntry(
        key=key, name=fields["name"], hypernym=fields.get("hypernym"), definition=fields.get("description")
    )
