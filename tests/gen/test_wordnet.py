"""Finding WordNet, and the table that Debian leaves out."""

import pytest

from synthclone.gen import wordnet


def test_corpus_is_version_3_0():
    assert wordnet.corpus().get_version() == "3.0"
    assert wordnet.fetch().name == "wordnet"


def test_lexicographer_table_from_the_manual_page():
    rows = "\n".join(
        f"{i:02d}\t{part}.x{i}  \tsome words" for i, part in enumerate(["adj", "adv", "noun", "verb"] * 11 + ["adj"])
    )
    table = wordnet.lexicographer_table(rows).splitlines()
    assert len(table) == 45
    assert table[:4] == ["00\tadj.x0\t3", "01\tadv.x1\t4", "02\tnoun.x2\t1", "03\tverb.x3\t2"]
    with pytest.raises(ValueError, match="lists 0 lexicographer files"):
        wordnet.lexicographer_table("")


def test_missing_wordnet_says_what_to_do(monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    wordnet.corpus.cache_clear()
    with pytest.raises(ValueError, match=r"not installed; run `python gen/wordnet.py`, or run `python -m nltk"):
        wordnet.corpus()
    monkeypatch.undo()
    wordnet.corpus.cache_clear()


@pytest.mark.parametrize("wnid", ["n00000000", "n99999999", "x02086910", "02086910", ""])
def test_unknown_ids(wnid):
    with pytest.raises(ValueError, match="WordNet"):
        wordnet.synset(wnid)
