"""WordNet 3.0 through NLTK: find it, or fetch it once.

    python gen/wordnet.py        # fetch WordNet if it is not there, and say where it is

ImageNet's ids are WordNet 3.0 part-of-speech letters and offsets ("n02086910"), so only version 3.0 will do.
`fetch` looks, in this order, at NLTK's own data path, at `nltk.download`, and at Debian's packages (downloaded and
unpacked as an ordinary user). NLTK refuses data outside its search path and symbolic links, hence the copying.
"""

import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from synthclone.gen.synsets import FILES, Synset, is_wordnet30, read_synset

IMAGENET = Path(__file__).parent / "data" / "classes" / "imagenet1k.txt"
DEBIAN_PACKAGES = ("wordnet-base", "wordnet-sense-index")
MEND = (
    "run `python -m nltk.downloader wordnet` where there is a network, or copy a WordNet 3.0 `dict` folder "
    "(with `lexnames`) to ~/nltk_data/corpora/wordnet"
)
SYNTACTIC_CATEGORY = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def data_directory() -> Path:
    """Where fetched data goes: the virtual environment if there is one, else the home folder."""
    root = Path(sys.prefix) if sys.prefix != sys.base_prefix else Path.home()
    return root / "nltk_data"


@cache
def corpus() -> Any:
    """NLTK's WordNet reader.

    Raises:
        ValueError: WordNet is not installed, or is not version 3.0; the message says how to get it.
    """
    import nltk  # slow to import, and only prompts need it
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    try:
        root = nltk.data.find("corpora/wordnet")
    except LookupError:
        try:
            root = nltk.data.find("corpora/wordnet.zip/wordnet/")
        except LookupError as error:
            raise ValueError(f"WordNet 3.0 is not installed; run `python gen/wordnet.py`, or {MEND}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other languages are missing is no news here
        reader = WordNetCorpusReader(root, omw_reader=None)
    if reader.get_version() != "3.0":
        raise ValueError(f"{root} holds WordNet {reader.get_version()}, but ImageNet's ids need 3.0; {MEND}")
    return reader


@cache
def dict_folder() -> Path:
    """The folder of WordNet's own files, found without loading NLTK (which takes 200 MB) where it lies in the usual place."""
    named = [Path(place) for place in os.environ.get("NLTK_DATA", "").split(os.pathsep) if place]
    for place in [*named, data_directory(), Path.home() / "nltk_data"]:
        folder = place / "corpora" / "wordnet"
        if is_wordnet30(folder):
            return folder
    root = corpus().root
    if not hasattr(root, "zipfile"):
        return Path(str(root))
    folder = data_directory() / "corpora"  # `nltk.download` leaves a zip, whose files cannot be read by their offsets
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        shutil.unpack_archive(root.zipfile.filename, scratch)
        Path(scratch, "wordnet").rename(folder / "wordnet")
    return folder / "wordnet"


def fetch() -> Path:
    """Make `corpus()` work, downloading only if it does not yet; returns the folder.

    Raises:
        ValueError: no source could be reached; the message says what to do by hand.
    """
    try:
        return Path(str(corpus().root))
    except ValueError:
        pass
    import nltk

    target = data_directory()
    target.mkdir(parents=True, exist_ok=True)
    if not nltk.download("wordnet", download_dir=str(target), quiet=True):
        print("nltk.download had no network; trying Debian's WordNet packages", file=sys.stderr)
        try:
            _unpack_debian(target / "corpora" / "wordnet")
        except (OSError, subprocess.CalledProcessError) as error:
            raise ValueError(
                f"WordNet 3.0 could be fetched neither by NLTK nor from Debian ({error}); {MEND}"
            ) from error
    return Path(str(corpus().root))


def _unpack_debian(target: Path) -> None:
    """Download Debian's WordNet packages with apt, as any user, and lay their files out as NLTK reads them."""
    with tempfile.TemporaryDirectory() as scratch:
        lists = Path(scratch) / "lists"
        (lists / "partial").mkdir(parents=True)
        apt = [
            "apt-get",
            "-qq",
            "-o",
            f"Dir::State::Lists={lists}",
            "-o",
            f"Dir::Cache={scratch}",
            "-o",
            "Debug::NoLocking=1",
        ]
        # apt drops to the user _apt, which may not write here; we are not asking for more than our own rights.
        apt += ["-o", "APT::Sandbox::User="]
        subprocess.run([*apt, "update"], check=True, cwd=scratch, stdout=subprocess.DEVNULL)
        subprocess.run([*apt, "download", *DEBIAN_PACKAGES], check=True, cwd=scratch, stdout=subprocess.DEVNULL)
        for package in sorted(Path(scratch).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, scratch], check=True)
        share = Path(scratch) / "usr/share"
        manual = gzip.decompress((share / "man/man5/lexnames.5WN.gz").read_bytes()).decode()
        (share / "wordnet/lexnames").write_text(lexicographer_table(manual))
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(share / "wordnet", part)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)


def lexicographer_table(manual: str) -> str:
    """The `lexnames` file (number, name, syntactic category) that Debian leaves out, from its manual page lexnames(5)."""
    rows = re.findall(r"^(\d\d)\t([a-z]+)\.(\w+)", manual, flags=re.MULTILINE)
    if len(rows) != 45:
        raise ValueError(f"lexnames(5) lists {len(rows)} lexicographer files instead of 45; {MEND}")
    return "".join(f"{number}\t{part}.{name}\t{SYNTACTIC_CATEGORY[part]}\n" for number, part, name in rows)


def synset(wnid: str) -> Synset:
    """The synset of an ImageNet id such as "n02086910".

    Raises:
        ValueError: the id is malformed or not in WordNet 3.0.
    """
    if not re.fullmatch(r"[nvar]\d{8}", wnid):
        raise ValueError(
            f"{wnid!r} is no WordNet id; one is a letter and eight digits, such as n02086910{_nearest(wnid)}"
        )
    found = read_synset(dict_folder(), wnid)
    if found is None:
        raise ValueError(
            f"{wnid} is not in WordNet 3.0; check the id, or give name and description in a YAML list{_nearest(wnid)}"
        )
    return found


def _nearest(word: str) -> str:
    """Ids, with names, of the synsets whose ids or names look most like a word; the end of an error message."""
    found = _nearest_ids(word) if re.fullmatch(r"\w?\d+", word) else _nearest_names(word)
    return "; did you mean " + " or ".join(f"{key} ({name})" for key, name in found[:4]) + "?" if found else ""


def _nearest_ids(word: str) -> list[tuple[str, str]]:
    """Ids that are a slip or two of the hand away: of ImageNet's classes or, if none is, of all nouns."""
    folder = dict_folder()
    offsets = re.findall(rb"^(\d{8}) ", (folder / FILES["n"]).read_bytes(), flags=re.MULTILINE)
    for known in (IMAGENET.read_text(encoding="utf-8").split(), [f"n{offset.decode()}" for offset in offsets]):
        if near := get_close_matches(word.lower(), known, cutoff=0.85):  # one letter of nine wrong gives 0.89
            return [(wnid, node.lemmas[0]) for wnid in near if (node := read_synset(folder, wnid))]
    return []


def _nearest_names(word: str) -> list[tuple[str, str]]:
    """The synsets of a name, or of those that look most like it."""
    reader, wanted = corpus(), word.strip().lower().replace(" ", "_")
    nouns = [wanted] if reader.synsets(wanted, pos="n") else get_close_matches(wanted, reader.all_lemma_names(pos="n"))
    return [(f"n{node.offset():08d}", name) for name in nouns for node in reader.synsets(name, pos="n")[:2]]


if __name__ == "__main__":
    print(fetch())
