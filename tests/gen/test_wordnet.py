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


def test_the_data_files_say_what_nltk_says():
    """Every class of ImageNet-1K, and nouns from all over the file."""
    from itertools import islice

    from synthclone.gen import classes

    reader = wordnet.corpus()
    nodes = [reader.synset_from_pos_and_offset("n", int(entry.key[1:])) for entry in classes.load("imagenet1k")]
    for node in [*nodes, *islice(reader.all_synsets("n"), 0, 20_000, 10)]:
        found = wordnet.synset(f"n{node.offset():08d}")
        assert list(found.lemmas) == [name.replace("_", " ") for name in node.lemma_names()]
        assert found.definition == node.definition()
        parents = [tuple(name.replace("_", " ") for name in parent.lemma_names()) for parent in node.hypernyms()]
        assert sorted(parent.lemmas for parent in found.hypernyms()) == sorted(parents)


def test_several_hypernyms_come_in_the_order_of_the_file():
    """NLTK keeps them in a set of strings, whose order is another one in every process, and so would be the prompt."""
    assert [parent.lemmas[0] for parent in wordnet.synset("n00007846").hypernyms()] == ["organism", "causal agent"]


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [("papillon", r"n02086910 \(papillon\)"), ("papilon", r"\(papillon\)"), ("toy spaniel", "n02086346")],
)
def test_a_name_in_place_of_an_id_gets_the_nearest_names(word, suggestion):
    with pytest.raises(ValueError, match=f"is no WordNet id; .*did you mean .*{suggestion}"):
        wordnet.synset(word)


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("n01440765", r"n01440765 is not in WordNet 3.0; .*did you mean n01440764 \(tench\)\?"),
        ("n1440764", r"did you mean n01440764 \(tench\)\?"),
        ("01440764", r"did you mean n01440764 \(tench\)\?"),
        ("n00007847", r"did you mean .*n00007846 \(person\)"),  # a noun, but no class of ImageNet
    ],
)
def test_a_slip_in_an_id_gets_the_nearest_ids(word, suggestion):
    with pytest.raises(ValueError, match=suggestion):
        wordnet.synset(word)


def test_zipped_corpora_are_unpacked_beside_themselves(tmp_path, monkeypatch):
    import shutil

    import nltk

    source = wordnet.dict_folder()
    (tmp_path / "corpora").mkdir()
    shutil.make_archive(str(tmp_path / "corpora" / "wordnet"), "zip", source.parent, "wordnet")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(wordnet, "data_directory", lambda: tmp_path)
    monkeypatch.setenv("NLTK_DATA", "")
    monkeypatch.setattr(wordnet.Path, "home", lambda: tmp_path)
    wordnet.corpus.cache_clear()
    wordnet.dict_folder.cache_clear()
    try:
        assert wordnet.dict_folder() == tmp_path / "corpora" / "wordnet"
        assert wordnet.synset("n02086910").lemmas == ("papillon",)
    finally:
        monkeypatch.undo()
        wordnet.corpus.cache_clear()
        wordnet.dict_folder.cache_clear()
