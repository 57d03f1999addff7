"""Prompt text of named synsets against the paper's own examples (section 4.2), and the class lists."""

import pytest

from synthclone.gen import classes
from synthclone.gen.prompts import TEMPLATES, VARIANTS, fields, prompt


@pytest.mark.parametrize(
    ("wnid", "variant", "text"),
    [
        ("n02086910", "c", "papillon"),
        ("n02086910", "c,h", "papillon, toy spaniel"),
        (
            "n02086910",
            "c,d",
            "papillon, small slender toy spaniel with erect ears and a black-spotted brown to white coat",
        ),
        ("n03947888", "c", "pirate, pirate ship"),
        ("n03947888", "c,h", "pirate, pirate ship, ship"),
        ("n03947888", "c,d", "pirate, pirate ship, a ship that is manned by pirates"),
        ("n02012849", "c,h", "crane, wading bird, wader"),
        ("n03126707", "c,h", "crane, lifting device"),
        ("n13742358", "c", "zero, 0, nought, cipher, cypher"),
    ],
)
def test_prompt_of_synset(wnid, variant, text):
    assert prompt(classes.from_wnid(wnid), TEMPLATES[variant]) == text


def test_background_prompt():
    assert (
        prompt(classes.from_wnid("n02086910"), TEMPLATES["c,h-inside-b"], "attic")
        == "papillon, toy spaniel inside attic"
    )


def test_both_parents_are_named():
    """A class with several direct hypernyms names them all, as the literal reading of the paper asks."""
    entry = classes.from_wnid("n02123045")  # tabby has one parent; its sibling list must not leak in
    assert entry.hypernym == "domestic cat, house cat, Felis domesticus, Felis catus"
    two = classes.from_wnid("n03594945")
    names = [lemma for node in classes.wordnet.synset("n03594945").hypernyms() for lemma in node.lemmas]
    assert two.hypernym == ", ".join(names)
    several = [
        entry.key for entry in classes.load("imagenet1k") if len(classes.wordnet.synset(entry.key).hypernyms()) > 1
    ]
    assert len(several) == 38


def test_first_lemma_and_first_hypernym():
    assert classes.from_wnid("n03947888", lemmas="first").name == "pirate"
    full = [", ".join(parent.lemmas) for parent in classes.wordnet.synset("n02123045").hypernyms()]
    assert classes.from_wnid("n02123045", lemmas="first").hypernym == full[0].partition(",")[0]
    key = next(e.key for e in classes.load("imagenet1k") if len(classes.wordnet.synset(e.key).hypernyms()) > 1)
    first, second = (parent.lemmas for parent in classes.wordnet.synset(key).hypernyms()[:2])
    assert classes.from_wnid(key, hypernyms="first").hypernym == ", ".join(first)
    assert classes.from_wnid(key, lemmas="first").hypernym.startswith(f"{first[0]}, {second[0]}")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("a photo of {c}, {h}", "a photo of papillon, toy spaniel"),
        (
            "{{{c}}}: {d}",
            "{papillon}: small slender toy spaniel with erect ears and a black-spotted brown to white coat",
        ),
        ("{c} in {b}", "papillon in attic"),
    ],
)
def test_templates_of_ones_own(template, text):
    assert prompt(classes.from_wnid("n02086910"), template, "attic" if "{b}" in template else None) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{x} of {c}", r"unknown field \{x\}; valid: \{c\} class"),
        ("{c.key}", r"unknown field"),
        ("{c!r}", r"unknown field"),
        ("{}", r"unknown field \{\}"),
        ("a photo in {b}", r"says nothing of the class"),
        ("{c", r"write \{\{ and \}\} for braces"),
    ],
)
def test_bad_templates(template, message):
    with pytest.raises(ValueError, match=message):
        fields(template)


def test_no_underscores_in_any_prompt():
    for entry in classes.load("imagenet1k"):
        for variant in VARIANTS:
            scene = "attic" if variant == "c,h-inside-b" else None
            assert "_" not in prompt(entry, TEMPLATES[variant], scene), entry.key


@pytest.mark.parametrize(
    ("name", "count"), [("digits", 10), ("imagenet100", 100), ("imagenet1k", 1000), ("places365", 365)]
)
def test_named_lists(name, count):
    entries = classes.load(name)
    assert len(entries) == count
    assert [entry.key for entry in entries] == sorted(entry.key for entry in entries)


def test_imagenet100_is_part_of_imagenet1k():
    all_keys = {entry.key for entry in classes.load("imagenet1k")}
    assert {entry.key for entry in classes.load("imagenet100")} < all_keys


def test_the_two_cranes_are_found():
    assert classes.same_names(classes.load("imagenet1k")) == {"crane": ["n02012849", "n03126707"]}


def test_own_lists(tmp_path):
    (tmp_path / "own.txt").write_text("n03947888  # a ship\nn02086910\n")
    assert [entry.key for entry in classes.load(str(tmp_path / "own.txt"))] == ["n02086910", "n03947888"]
    (tmp_path / "own.yaml").write_text("- {name: Blue Mug, description: a mug that is blue}\n- spoon\n")
    mug, spoon = classes.load(str(tmp_path / "own.yaml"))
    assert prompt(mug, TEMPLATES["c,d"]) == "Blue Mug, a mug that is blue"
    assert (mug.key, spoon.key) == ("blue_mug", "spoon")
    with pytest.raises(ValueError, match=r"spoon.*has no definition.*--prompt c"):
        prompt(spoon, TEMPLATES["c,d"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "n02086911\n", r"a.txt: line 1: n02086911 is not in WordNet"),
        ("a.txt", "papillon\n", r"line 1: 'papillon' is no WordNet id"),
        ("a.txt", "# nothing\n", "no classes in it"),
        ("a.txt", "n02086910\nn02086910\n", "stands twice"),
        ("a.yaml", "- {nme: mug}\n", "no `name`"),
        ("a.yaml", "- {name: mug, colour: red}\n", "unknown field 'colour'"),
        ("a.yaml", "- no\n", "quote numbers and yes/no"),
        ("a.yaml", "{", "a.yaml: "),
        ("a.yaml", "- {name: mug, key: 5}\n- {name: spoon, key: spoon}\n", "entry 1: key is 5, but must be text"),
        ("a.yaml", "- {name: mug, hypernym: yes}\n", "entry 1: hypernym is True, but must be text; quote"),
        ("a.yaml", "- spoon\n- {name: mug, description: 7}\n", "entry 2: description is 7"),
        ("a.yaml", "- {name: ''}\n", "entry 1: name is '', but must be text"),
        ("a.yaml", "- {name: 8}\n", "entry 1: name is 8, but must be text"),
        ("a.yaml", "- {name: mug, key: ''}\n", "entry 1: key is ''"),
        ("a.yaml", "- {name: mug, key: ../../x}\n", "key '../../x' cannot be a folder's name; leave out slashes"),
        ("a.yaml", "- {name: mug, key: .hidden}\n", "key '.hidden' cannot be a folder's name"),
        ("a.yaml", '- {name: mug, key: "a\\\\b"}\n', "cannot be a folder's name"),
        ("a.yaml", "- {name: mug, 7: x, colour: red}\n", "unknown field 7"),
        ("a.yaml", "- {name: Mug}\n- mug\n", "class 'mug' stands twice; remove one or give it a `key`"),
        ("mylist", "n02086910\n", "mylist: lists are read from files that end in .txt, .yaml, .yml; rename it"),
        ("list.csv", "n02086910\n", "read from files that end in .txt"),
    ],
)
def test_bad_lists(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        classes.load(str(tmp_path / name))


@pytest.mark.parametrize(("name", "text"), [("a.txt", "n02086910\n"), ("a.YAML", "- name: papillon\n")])
def test_a_byte_order_mark_is_no_part_of_a_list(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert [entry.name for entry in classes.load(str(tmp_path / name))] == ["papillon"]


def test_a_list_in_this_folder_without_an_extension(tmp_path, monkeypatch):
    (tmp_path / "mylist").write_text("n02086910\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"mylist: lists are read from files that end in .txt, .yaml, .yml"):
        classes.load("mylist")


def test_unknown_list_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean imagenet100"):
        classes.load("imagenet10")
