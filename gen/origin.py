"""What each image of a generated set must be, by its place: from the set's own plan, or from that of the set it was merged from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthclone.gen import manifest as manifests
from synthclone.gen.noise import retry_seed
from synthclone.gen.plan import Plan
from synthclone.gen.shards import Sample


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A generated set, and where its shards stand in the set that is looked at."""

    manifest: Mapping[str, Any]
    plan: Plan
    labels: Mapping[str, int]
    """Label by class key, in the set that is looked at."""
    source: int | None = None
    """Number of the generated set among those merged; None where nothing was merged."""
    first_shard: int = 0
    first_index: int = 0

    def num_images(self, number: int) -> int:
        """Images that a shard must hold."""
        return len(self.plan.shard_indices(number - self.first_shard))

    def fault(self, sample: Sample, number: int, position: int) -> str | None:
        """How a well-formed sample at a position of a shard differs from what is due there, or None."""
        if position >= self.num_images(number):
            return "is not in the plan"
        planned = self.plan.image(self.plan.shard_indices(number - self.first_shard)[position])
        index = self.first_index + planned.index
        due = {
            "index": index,
            "label": self.labels[planned.class_key],
            "class": planned.class_key,
            "prompt": planned.prompt,
            "serial": planned.serial,
            "seed": retry_seed(planned.seed, sample.fields.get("attempt", 0)),
            **{name: self.manifest["sampling"][name] for name in ("guidance", "solver", "steps")},
            **{name: self.manifest[name] for name in ("model", "model_sha256") if name in self.manifest},
        }
        sampling = self.manifest["sampling"]  # of which what is as usual is not said again for every image
        due |= {name: sampling[name] for name in ("negative_prompt", "guidance_interval") if name in sample.fields}
        if self.source is not None:
            due |= {"source": self.source, "source_key": f"{planned.index:09d}"}
        for name, value in due.items():
            if sample.fields.get(name) != value:
                return f"has {name} {sample.fields.get(name)!r}; by the manifest it is {value!r}"
        tag = self.manifest.get("jpeg", {}).get("digital_source_type")
        if tag and tag.encode() not in sample.jpeg:
            return "lacks the IPTC digital source type, by which others know that it was generated"
        return None if sample.key == f"{index:09d}" else f"should be {index:09d} by the plan"


def plan_of(manifest: Mapping[str, Any]) -> Plan | None:
    """The plan of a generated set; None for merged ones and for real images."""
    return manifests.plan_of(manifest) if "template" in manifest.get("sampling", {}) else None


def origins_of(manifest: Mapping[str, Any]) -> list[Origin]:
    """The generated sets that a set consists of, as far as they are not merged ones themselves."""
    labels = {entry["key"]: label for label, entry in enumerate(manifest["classes"])}
    if (plan := plan_of(manifest)) is not None:
        return [Origin(manifest=manifest, plan=plan, labels=labels)]
    origins, first_shard, first_index = [], 0, 0
    for number, source in enumerate(manifest.get("sources", ())):
        if (plan := plan_of(source["manifest"])) is not None:
            origins.append(
                Origin(
                    manifest=source["manifest"],
                    plan=plan,
                    labels=labels,
                    source=number,
                    first_shard=first_shard,
                    first_index=first_index,
                )
            )
        first_shard, first_index = first_shard + source["num_shards"], first_index + source["num_images"]
    return origins


def origin_of(origins: list[Origin], number: int) -> Origin | None:
    """The origin of a shard; None for one that was not planned."""
    return next((part for part in origins if 0 <= number - part.first_shard < part.plan.num_shards), None)
