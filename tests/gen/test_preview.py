"""`synthclone preview`: what the page holds, that it needs no network, how little it reads, and that it works in a browser."""

import base64
import dataclasses
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from support import MADE, run_command

from synthclone.gen import jpeg, reading, shards, storage
from synthclone.gen.preview import command as preview

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NAMES = {"n01": "papillon", "n02": "pirate <ship>", "n03": "lorikeet"}


def write_dataset(folder, variant, *, flagged=(), size=24, keys=tuple(NAMES), per_class=6, shard_size=6):
    """A data set of noise; image i belongs to class i modulo the number of classes, so every shard holds them all."""
    target = storage.at(folder)
    classes = [
        {"key": key, "name": NAMES[key], "label": i, "count": per_class, "prompt": f"{NAMES[key]} {variant}"}
        for i, key in enumerate(keys)
    ]
    sampling = {"prompt": variant, "guidance": 2.0, "solver": "ddim", "steps": 20}
    made = {**MADE, "num_images": per_class * len(keys), "sampling": sampling}
    shards.write_manifest(target, {"classes": classes, **made})
    generator = np.random.default_rng(0)
    for number in range(per_class * len(keys) // shard_size):
        rows = []
        for index in range(number * shard_size, (number + 1) * shard_size):
            entry = classes[index % len(classes)]
            fields = {
                "label": entry["label"], "class": entry["key"], "prompt": f'{entry["prompt"]} @title@ "{index}"',
                "seed": f"{index:032x}", "serial": index // len(classes), "index": index,
            }  # fmt: skip
            fields |= {reading.SAFETY_FLAG: index in flagged} if flagged else {}
            image = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
            rows.append(shards.Sample(key=f"{index:09d}", jpeg=jpeg.encode(image), fields=fields))
        shards.write_shard(target, number, rows, {})
    return folder


class Page(HTMLParser):
    """Tags with their attributes, and the texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return write_dataset(folder / "plain", "c"), write_dataset(folder / "defined", "c,d", flagged={1, 4})


@pytest.fixture(scope="module")
def page(datasets, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "preview.html"
    assert run_command(preview, *datasets, "--per-class", 3, "--output", path) == 0
    return path


def test_every_image_with_its_prompt_seed_and_alternative_text(page, datasets):
    parsed = Page(page.read_text())
    images = [attrs for attrs in parsed.all("img") if attrs["alt"]]
    tiles = [attrs for attrs in parsed.all("button") if "data-fields" in attrs]
    assert len(images) == len(tiles) == 3 * 3 * 2
    fields = [json.loads(attrs["data-fields"]) for attrs in tiles]
    stored = {f["index"]: f for number in range(3) for f in (s.fields for s in samples_of(datasets[0], number))}
    for row, image in zip(fields, images, strict=True):
        assert {"serial", "seed", "prompt"} <= row.keys() and row["seed"] == stored[row["index"]]["seed"]
        assert image["alt"].startswith(NAMES[row["class"]]) and row["prompt"] in image["alt"]
    assert sum("flagged" in attrs["class"].split() for attrs in tiles) == 2
    assert "pirate <ship>" in parsed.texts and 'pirate <ship> c @title@ "1"' in html.unescape(page.read_text())
    assert [row["data-class"] for row in parsed.all("tr")[1:]] == [f"{key} {name}" for key, name in NAMES.items()]
    assert {"plain", "defined"} < set(
        parsed.texts
    ) and "prompt c,d · guidance 2.0 · steps 20 · solver ddim" in parsed.texts


def samples_of(folder, number):
    return reading.samples(storage.at(folder), number)


def test_it_needs_no_network(page):
    for name, attrs in Page(page.read_text()).tags:
        assert name not in {"link", "iframe", "object"}
        for attribute in ("src", "href", "action"):
            assert attrs.get(attribute, "data:").startswith("data:")
    assert not re.search(r"url\(|@import|fetch\(|https?://", page.read_text())


def test_large_images_are_reduced_and_small_ones_left(tmp_path):
    big, small = write_dataset(tmp_path / "big", "c", size=400), write_dataset(tmp_path / "small", "c")
    assert run_command(preview, big, small, "--per-class", 1, "--pixels", 64, "--output", tmp_path / "p.html") == 0
    images = [attrs for attrs in Page((tmp_path / "p.html").read_text()).all("img") if attrs["alt"]]
    assert sorted(attrs["width"] for attrs in images) == ["24"] * 3 + ["64"] * 3
    for attrs in images:
        data = base64.b64decode(attrs["src"].partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            assert str(image.size[0]) == attrs["width"] and "trainedAlgorithmicMedia" in image.info["xmp"].decode()


def test_only_the_shards_that_are_needed_are_read(datasets, tmp_path, monkeypatch):
    numbers, real = [], reading.samples
    monkeypatch.setattr(reading, "samples", lambda source, number: numbers.append(number) or real(source, number))
    assert run_command(preview, datasets[0], "--per-class", 3, "--output", tmp_path / "p.html") == 0
    assert numbers == [0, 1]  # two images of each class a shard
    numbers.clear()
    words = ("--classes", "n02,lorikeet", "--per-class", 1)
    assert run_command(preview, datasets[0], *words, "--output", tmp_path / "p.html") == 0
    assert numbers == [0] and Page((tmp_path / "p.html").read_text()).texts.count("lorikeet") == 1
    assert len(Page((tmp_path / "p.html").read_text()).all("tr")) == 3


def test_object_stores_and_missing_classes(datasets, tmp_path):
    fewer = write_dataset("memory://preview/fewer", "c,h", keys=("n01", "n02"))
    assert run_command(preview, datasets[0], fewer, "--per-class", 2, "--output", tmp_path / "p.html") == 0
    parsed = Page((tmp_path / "p.html").read_text())
    assert parsed.texts.count("no images of this class") == 1 and len([a for a in parsed.all("img") if a["alt"]]) == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--classes", "papilon"), "unknown class 'papilon' in --classes; the nearest are papillon"),
        (("--per-class", "0"), "--per-class is 0, but must be 1 or more"),
        (("--max-images", "5"), "3 classes x 8 images x 1 data sets are 24, over --max-images 5"),
    ],
)
def test_bad_options(datasets, tmp_path, capsys, words, message):
    assert run_command(preview, datasets[0], *words, "--output", tmp_path / "p.html") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "p.html").exists()


def test_bad_data_sets(datasets, tmp_path, capsys):
    out = ("--output", tmp_path / "p.html")
    assert run_command(preview, tmp_path / "nowhere", *out) == 2
    assert "nowhere is no data set" in capsys.readouterr().err
    assert run_command(preview, datasets[0], datasets[0], *out) == 2
    assert "given twice" in capsys.readouterr().err
    broken = shutil.copytree(datasets[0], tmp_path / "broken")
    tar = broken / "000000.tar"
    tar.write_bytes(b"\xff" * tar.stat().st_size)
    assert run_command(preview, broken, *out) == 2
    assert "000000.tar is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [lambda data: b"no image", lambda data: data[: len(data) // 2]])
def test_an_image_that_cannot_be_decoded_is_named(datasets, tmp_path, capsys, damage):
    broken = shutil.copytree(datasets[0], tmp_path / "broken")
    samples = list(samples_of(broken, 1))
    samples[2] = dataclasses.replace(samples[2], jpeg=damage(samples[2].jpeg))
    shards.write_shard(storage.at(broken), 1, samples, {})
    assert run_command(preview, broken, "--output", tmp_path / "p.html") == 2
    shown = capsys.readouterr().err
    assert "preview" in shown and "image/s" in shown  # the progress bar
    error = shown.splitlines()[-1]
    assert f"{broken}/000001.tar: image 000000008 cannot be decoded" in error and "`synthclone verify" in error


PROBE = """<script>
const visible = () => tiles.filter(tile => tile.offsetParent).length, text = () => document.querySelector("output").value;
const set = (name, value) => { form.elements[name].value = value; form.dispatchEvent(new Event("input")); };
const key = name => dialog.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true}));
const about = name => [...dialog.querySelectorAll("dt")].find(term => term.textContent === name).nextSibling.textContent;
const seen = {at_start: visible(), text: text(), broken: [...document.images].filter(i => i.alt && !i.naturalWidth).length};
set("class", "PIRATE"); seen.by_class = visible();
set("class", ""); set("prompt", "c,d"); seen.by_prompt = visible();
set("prompt", ""); set("safety", "flagged"); seen.flagged = visible(); seen.hash = location.hash;
set("safety", "passed"); seen.passed = visible();
set("safety", ""); tiles[0].click(); seen.open = dialog.open; seen.first = about("seed");
key("ArrowRight"); seen.second = about("seed"); key("ArrowLeft"); key("ArrowLeft"); seen.around = about("data set");
dialog.querySelector("[data-close]").click(); seen.closed = !dialog.open; seen.wide = document.documentElement.scrollWidth <= innerWidth;
document.body.append(Object.assign(document.createElement("pre"), {id: "seen", textContent: JSON.stringify(seen)}));
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_filters_and_the_dialog_work_in_a_browser(page, tmp_path):
    (tmp_path / "probe.html").write_text(page.read_text().replace("</body>", PROBE))

    def dump(fragment):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        flags += [
            "--disable-background-networking",
            "--disable-component-update",
            f"--user-data-dir={tmp_path}/profile",
        ]
        url = (tmp_path / "probe.html").as_uri() + fragment
        result = subprocess.run([CHROMIUM, *flags, "--dump-dom", url], capture_output=True, text=True, timeout=60)
        return json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', result.stdout, re.DOTALL)[1]))

    seen = dump("")
    assert (seen["at_start"], seen["broken"], seen["wide"]) == (18, 0, True)
    assert seen["text"] == "18 of 18 images, 3 of 3 classes"
    assert (seen["by_class"], seen["by_prompt"], seen["flagged"], seen["passed"]) == (6, 9, 2, 7)
    assert seen["hash"] == "#safety=flagged"
    assert (seen["open"], seen["closed"], seen["around"]) == (True, True, "defined")
    assert (int(seen["first"], 16), int(seen["second"], 16)) == (0, 3)
    assert dump("#class=lorikeet")["at_start"] == 6
