"""Which shard goes to whom: handed out one at a time, given back when a worker is lost, and given up after too many deaths."""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any


class WorkersLostError(ValueError):
    """Workers died again and again over the same shard; finished shards stay."""


class ShardQueue:
    """The shards that are still to be made, and who has which in hand."""

    def __init__(self, numbers: Iterable[int], *, retries: int) -> None:
        self._waiting = deque(numbers)
        self._in_hand: dict[Any, list[int]] = {}
        self._deaths: Counter[int | None] = Counter()
        self._retries = retries

    @property
    def finished(self) -> bool:
        """Whether nothing waits and nobody has a shard in hand."""
        return not self._waiting and not any(self._in_hand.values())

    @property
    def empty(self) -> bool:
        """Whether no shard waits to be taken; a lost worker may still give some back."""
        return not self._waiting

    def take(self, worker: Any) -> int | None:
        """The next shard, now in the worker's hand; None if none waits."""
        if not self._waiting:
            return None
        number = self._waiting.popleft()
        self._in_hand.setdefault(worker, []).append(number)
        return number

    def done(self, worker: Any, number: int) -> None:
        """A shard is safe in the storage."""
        self._in_hand[worker].remove(number)
        self._deaths.pop(number, None)
        self._deaths.pop(None, None)  # some worker works

    def lost(self, worker: Any, reason: str) -> None:
        """A worker is gone: its shards wait again, and the oldest of them is blamed.

        Raises:
            WorkersLostError: workers have died over that shard as often as is allowed.
        """
        given_back = self._in_hand.pop(worker, [])
        blamed = given_back[0] if given_back else None
        self._deaths[blamed] += 1
        if self._deaths[blamed] >= self._retries:
            where = "before they took a shard" if blamed is None else f"while they made shard {blamed:06d}"
            if len(given_back) > 1:
                where += f" (and had {', '.join(f'{number:06d}' for number in given_back[1:])} in hand)"
            raise WorkersLostError(
                f"{self._deaths[blamed]} workers died {where}; the last one: {reason}. Finished shards stay. If it was "
                "killed, look for a lack of memory (lower --batch or --workers); else what it printed above says why. "
                "Then run the same command again to go on"
            )
        self._waiting.extendleft(reversed(given_back))
