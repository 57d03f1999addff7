"""The card of an export for Hugging Face's hub: the data set's own, describing images and metadata.jsonl in place of tars.

Licence, bias and safety go with the images. `dataset.json` goes too, for the card refers to it.
"""

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import yaml

from synthclone.gen import card, reading, shards
from synthclone.gen.shards import Dataset
from synthclone.gen.storage import Storage

FILES = """\
- `train/NNNNNN/KEY.jpg`: the images, in one folder or more for each shard of the original, with a mixture of all classes.
- `train/NNNNNN/metadata.jsonl`: one row an image, with its file name, label, class, prompt, seed and sampling parameters.
- `dataset.json`: the classes in label order, and all that decides the images' bytes."""


def write(source: Dataset, target: Storage, num_bytes: int) -> None:
    """Write the card, if the data set has one.

    Args:
        source: the data set.
        target: folder of the export.
        num_bytes: of the exported files.

    Raises:
        ValueError: the card's front matter is no YAML.
    """
    if card.FILE not in source.storage.sizes():
        return
    text = source.storage.read(card.FILE).decode("utf-8", "replace")
    sizes = [part["num_shards"] for part in source.manifest.get("sources", ())]
    fields: dict[str, Any] = {}
    for first in accumulate(sizes[:-1], initial=0):  # each merged set may have fields of its own
        fields = {**reading.first_sample(source.storage, source.shards[first].number).fields, **fields}
    target.write(
        card.FILE, adapted(text, fields, source.num_images, num_bytes, f"{source.storage.url}/{card.FILE}").encode()
    )
    target.write(shards.MANIFEST, source.storage.read(shards.MANIFEST))


def adapted(text: str, fields: Mapping[str, Any], num_images: int, num_bytes: int, where: str) -> str:
    """A card's text with the front matter and the list of files of the export; what its owner changed elsewhere stays."""
    header, body = {}, text
    if found := re.match(r"---\n(.*?\n)---\n", text, re.DOTALL):
        body = text[found.end() :]
        try:
            header = yaml.safe_load(found[1])
        except yaml.YAMLError as error:
            raise ValueError(f"{where} has a front matter that is no YAML ({error}); correct it") from error
        if not isinstance(header, dict):
            raise ValueError(f"{where} has a front matter that is no mapping; correct it")
    features = [{"name": name, "dtype": card.DTYPES.get(type(value), "string")} for name, value in fields.items()]
    if isinstance(tags := header.get("tags"), list):
        header["tags"] = ["imagefolder" if tag == "webdataset" else tag for tag in tags]
    header |= {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train/**"}]}],
        "dataset_info": {
            "features": [{"name": "image", "dtype": "image"}, *features],
            "splits": [{"name": "train", "num_bytes": num_bytes, "num_examples": num_images}],
            "download_size": num_bytes,
            "dataset_size": num_bytes,
        },
    }
    body = re.sub(
        r"(^## What is in it\n\n)- .*?(?=\n\n)", lambda match: match[1] + FILES, body, flags=re.DOTALL | re.MULTILINE
    )
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n{body}"
