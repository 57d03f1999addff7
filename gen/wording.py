"""What prompts are made with beside the classes' own words: lists of backgrounds, and files of captions.

Backgrounds: a named class list (`places365`), a `.txt` of scene names, one a line, or a `.yaml` list as for classes.
Captions: a text file with a line `CLASS-KEY<TAB>CAPTION` for each caption, as many as one likes for a class. In both,
empty lines and lines that begin with "#" are left out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from synthclone.engines.nearest import nearest
from synthclone.gen import classes
from synthclone.gen.classes import ClassEntry

NUM_LISTED = 5


def load_backgrounds(source: str) -> tuple[str, ...]:
    """The scenes of a named list or of a file, in the order of a .txt or of a list's keys.

    Raises:
        ValueError: unknown list, no scene in it, or scenes that stand there more than once; the message names them.
    """
    if Path(source).suffix.lower() == ".txt":
        try:
            scenes = [line for _, line in _lines(Path(source))]
        except OSError as error:
            raise ValueError(f"cannot read backgrounds {source}: {error.strerror}") from error
        if not scenes:
            raise ValueError(f"{source}: no backgrounds in it; give one scene a line")
    else:
        scenes = [entry.name for entry in classes.read_entries(source)]
    twice = [scene for scene, count in Counter(scenes).items() if count > 1]
    if twice:
        raise ValueError(f"{source}: backgrounds stand there more than once: {listed(twice)}; keep one of each")
    return tuple(scenes)


def load_captions(path: Path, entries: Sequence[ClassEntry]) -> dict[str, tuple[str, ...]]:
    """The captions of every class, by its key, in the file's order.

    Raises:
        ValueError: a line of another form, a class that is not in the list, or one without a caption.
    """
    keys = [entry.key for entry in entries]
    captions: dict[str, list[str]] = {key: [] for key in keys}
    try:
        for number, line in _lines(path):
            key, _, caption = (part.strip() for part in line.partition("\t"))
            if not caption:
                raise ValueError(f"{path}: line {number}: {line!r} is not CLASS-KEY<TAB>CAPTION")
            if key not in captions:
                raise ValueError(f"{path}: line {number}: unknown class {key!r}{nearest(key, keys)}")
            captions[key].append(caption)
    except OSError as error:
        raise ValueError(f"cannot read captions {path}: {error.strerror}") from error
    if missing := [key for key, found in captions.items() if not found]:
        raise ValueError(f"{path}: no caption for {listed(missing)}; give each class at least one line")
    return {key: tuple(found) for key, found in captions.items()}


def listed(names: Iterable[str]) -> str:
    """Some names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - NUM_LISTED} more" if len(found) > NUM_LISTED else ""
    return ", ".join(found[:NUM_LISTED]) + more


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    """Number and text of the lines that say something."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error})") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()
