"""Synsets straight from WordNet's data files: an ImageNet id is a part of speech and a byte offset into one of them.

A line (manual page wndb(5)): offset, lexicographer file, type, number of words (hex), each word with an id, number of
pointers, each with symbol, offset, part of speech and source/target; then "|" and the gloss. NLTK reads all indices
first, which takes seconds and 200 MB, and gives several hypernyms in the order of a set of strings, another one in every
process. Tests hold this reader against it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

FILES = {"n": "data.noun", "v": "data.verb", "a": "data.adj", "r": "data.adv"}


@dataclass(frozen=True, kw_only=True)
class Synset:
    """A set of synonyms."""

    folder: Path
    lemmas: tuple[str, ...]
    """Its names in WordNet's order, as words."""
    definition: str
    hypernym_ids: tuple[str, ...]
    """Of the direct hypernyms."""

    def hypernyms(self) -> list["Synset"]:
        """The direct hypernyms, in the file's order."""
        return [parent for wnid in self.hypernym_ids if (parent := read_synset(self.folder, wnid))]


def is_wordnet30(folder: Path) -> bool:
    """Whether a folder holds WordNet 3.0: every file opens with the licence, which names the release."""
    path = folder / FILES["n"]
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"WordNet 3.0 " in file.read(1000)


def read_synset(folder: Path, wnid: str) -> Synset | None:
    """The synset of an id, a letter and eight digits; None if no synset begins at that byte."""
    with (folder / FILES[wnid[0]]).open("rb") as file:
        file.seek(int(wnid[1:]))
        line = file.readline().decode()
    if not line.startswith(f"{wnid[1:]} "):
        return None
    columns, _, gloss = line.partition("|")
    words = columns.split()
    num_words = int(words[3], 16)
    begin = 4 + 2 * num_words
    pointers = [words[begin + 1 + 4 * number :][:3] for number in range(int(words[begin]))]
    return Synset(
        folder=folder,
        lemmas=tuple(re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words[4:begin:2]),
        definition=re.sub(r'".*?"', "", gloss).strip("; \n"),
        hypernym_ids=tuple(f"{part}{offset}" for symbol, offset, part in pointers if symbol == "@"),
    )
