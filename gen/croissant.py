"""Croissant metadata (MLCommons Croissant 1.0, JSON-LD): what a data set's files are and what their fields mean.

Every tar is listed with its size and sha256; images and their JSON are two sets of files inside the tars, and the record
set `images` has one record for each JSON. No date and no address: the same data set gives the same bytes; whoever
publishes it adds `datePublished` and `url`.

`mlcroissant` 1.1 validates all of it and reads the records of `classes` and `pixels`; to those of `images` it has no way,
for it does not open JSON files inside an archive.
"""

from collections.abc import Mapping
from typing import Any

from synthclone.gen.jpeg import DIGITAL_SOURCE_TYPE
from synthclone.gen.shards import file_names

FILE = "croissant.json"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The standard's own context, in the form that its validator expects."""
TYPES = {bool: "sc:Boolean", int: "sc:Integer", float: "sc:Float", str: "sc:Text"}
MEANINGS = {
    "label": "Rank of the class among the sorted keys.",
    "class": "Key of the class.",
    "prompt": "Text that the image was generated from.",
    "seed": "128-bit key of the image's noise.",
    "serial": "Number of the image within its class.",
    "index": "Position in the data set.",
    "guidance": "Scale of classifier-free guidance.",
    "solver": "Diffusion solver.",
    "steps": "Diffusion steps.",
    "negative_prompt": "What guidance led away from.",
    "guidance_interval": "Share of the steps with guidance, from and to.",
    "model": "Name of the text-to-image model.",
    "model_sha256": "Hash of all its files.",
    "attempt": "How often the image was made before and not kept, for its safety.",
    "flagged": "Whether the generator's safety checker flagged the image.",
    "source": "Number of the data set that the image was merged from.",
    "source_key": "Key of the image in that data set.",
}


def describe(
    manifest: Mapping[str, Any],
    markers: Mapping[int, Mapping[str, Any]],
    fields: Mapping[str, Any],
    *,
    name: str,
    description: str,
    license_url: str,
) -> dict[str, Any]:
    """The JSON-LD.

    Args:
        manifest: content of `dataset.json`.
        markers: content of the shards' markers, by number.
        fields: one image's JSON, for the names and types of the fields.
        name: of the data set.
        description: one paragraph.
        license_url: where the terms are to be read.
    """
    tars = {file_names(number)[0]: marker for number, marker in sorted(markers.items())}
    inside = [{"@id": tar} for tar in tars]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": description,
        "license": license_url,
        "version": "1.0.0",
        "citeAs": "Sariyildiz, Alahari, Larlus, Kalantidis: Fake it till you make it: Learning transferable "
        "representations from synthetic ImageNet clones. CVPR 2023.",
        "keywords": ["synthetic", "image classification", "diffusion"],
        "digitalSourceType": DIGITAL_SOURCE_TYPE,
        "distribution": [
            *(
                {
                    "@type": "cr:FileObject",
                    "@id": tar,
                    "name": tar,
                    "contentUrl": tar,
                    "contentSize": f"{marker['bytes']} B",
                    "encodingFormat": "application/x-tar",
                    "sha256": marker["sha256"],
                }
                for tar, marker in tars.items()
            ),
            _file_set("jpegs", inside, "image/jpeg", "*.jpg"),
            _file_set("metadata", inside, "application/json", "*.json"),
        ],
        "recordSet": [_classes(manifest), _images(fields), _jpegs()],
    }


def _file_set(name: str, inside: list[dict[str, str]], encoding: str, pattern: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "containedIn": inside,
        "encodingFormat": encoding,
        "includes": pattern,
    }


def _field(record_set: str, name: str, kind: str, meaning: str, **more: Any) -> dict[str, Any]:
    identity = {"@type": "cr:Field", "@id": f"{record_set}/{name}", "name": name}
    return {**identity, "description": meaning, "dataType": kind, **more}


def _classes(manifest: Mapping[str, Any]) -> dict[str, Any]:
    columns = {"key": "sc:Text", "name": "sc:Text", "label": "sc:Integer"}
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "description": "The classes in label order.",
        "key": {"@id": "classes/key"},
        "field": [_field("classes", name, kind, f"The class's {name}.") for name, kind in columns.items()],
        "data": [{f"classes/{name}": entry[name] for name in columns} for entry in manifest["classes"]],
    }


def _images(fields: Mapping[str, Any]) -> dict[str, Any]:
    described = []
    for name, value in fields.items():
        source = {"fileSet": {"@id": "metadata"}, "extract": {"jsonPath": f"$.{name}"}}
        more = {"references": {"field": {"@id": "classes/key"}}} if name == "class" else {}
        kind = TYPES.get(type(value), "sc:Text")
        described.append(_field("images", name, kind, MEANINGS.get(name, name), source=source, **more))
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "What each image is: label, prompt, seed and sampling parameters, from the .json beside its .jpg.",
        "field": described,
    }


def _jpegs() -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "pixels",
        "name": "pixels",
        "description": "The images; a file's name is that of its JSON, and the number in it is the field `index`.",
        "field": [
            _field(
                "pixels",
                name,
                kind,
                meaning,
                source={"fileSet": {"@id": "jpegs"}, "extract": {"fileProperty": file_property}},
            )
            for name, kind, meaning, file_property in (
                ("file", "sc:Text", "Name of the file in its tar.", "filename"),
                ("image", "sc:ImageObject", "The decoded image.", "content"),
            )
        ],
    }
