"""Samples out of shards, one after another, from a local folder or an object store, reading no more than is asked for."""

from collections.abc import Iterator

from synthclone.gen import retry, shards, well_formed
from synthclone.gen.shards import Sample
from synthclone.gen.storage import Storage

SAFETY_FLAG = "flagged"
"""Field of a sample that the safety checker has looked at: true or false; absent where nobody looked."""


def first_sample(source: Storage, number: int) -> Sample:
    """A shard's first sample; a store's passing faults are tried again.

    Raises:
        ValueError: the tar is missing or damaged.
    """
    return retry.persist(
        lambda: next(samples(source, number)), f"read the first image of shard {number:06d} of {source.url}"
    )


def samples(source: Storage, number: int) -> Iterator[Sample]:
    """The samples of a shard in order; whoever stops early has read only the beginning.

    Raises:
        ValueError: the tar is missing or damaged, or not one that this project writes; or a sample is not well formed.
    """
    name = shards.file_names(number)[0]
    try:
        with source.system.open(source.path(name), "rb") as file:
            for sample in shards.unpack_stream(file):
                if fault := well_formed.sample_fault(sample.key, sample.fields):
                    raise ValueError(f"sample {sample.key!r} {fault}")
                yield sample
    except FileNotFoundError as error:
        raise ValueError(f"{source.url}/{name} does not exist") from error
    except ValueError as error:
        raise ValueError(
            f"{source.url}/{name} is damaged ({error}); run the command that made the data set again to repair it"
        ) from error
