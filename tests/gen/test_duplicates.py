"""Equal digests among many, found in one pass."""

import time

import numpy as np

from synthclone.gen.duplicates import Duplicates


def test_duplicates_among_many_are_all_found():
    generator = np.random.default_rng(0)
    rows = [generator.bytes(16) for _ in range(5000)]
    later = [*rows[3000:], rows[17], b"", rows[4000], rows[17]]
    with Duplicates() as duplicates:
        duplicates.add(0, rows[:3000], [f"a{i}" for i in range(3000)])
        duplicates.add(1, later, [f"b{i}" for i in range(len(later))])
        found = sorted([duplicates.place(row) for row in group] for group in duplicates.find())
        assert found == [[(0, "a17"), (1, "b2000"), (1, "b2003")], [(1, "b1000"), (1, "b2002")]]
        duplicates.drop({1})
        assert list(duplicates.find()) == []
        duplicates.add(1, [rows[5]], ["c"])
        assert [[duplicates.place(row) for row in group] for group in duplicates.find()] == [[(0, "a5"), (1, "c")]]


def test_many_equal_digests_take_one_pass():
    with Duplicates() as duplicates:
        duplicates.add(0, [b"\0" * 16] * 300_000, [""] * 300_000)
        start = time.perf_counter()
        assert [len(group) for group in duplicates.find()] == [300_000]
        assert time.perf_counter() - start < 5  # a walk back from each would take hours
