"""Which of a growing past to give up when there is room for so much only: the older, the sparser."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

Key = TypeVar("Key", bound=Hashable)
_FOREVER = 62  # rank of the very first, which stays
_EXPIRED_AT_ONCE = 4  # so that a gap in what comes costs no append more than that
_REPEATED_BYTES = 4096  # what a further time of the same array counts: no array, but an entry to look through


class Thinning(Generic[Key]):
    """The order in which the members of a sequence are given up; every call but `keep` is O(1) in its length.

    A member's rank says how many times its number (0, 1, 2, ...) can be halved. The next to go is the one whose age,
    halved as many times as its rank, is greatest. So everything younger than some age a is kept whole, half of what is
    between a and 2 a old, a quarter of what is between 2 a and 4 a, and so on: each time the past doubles, the density
    of its oldest part is halved. With room for b and a sequence of n, a is about 2 b / (log2(n / a) + 2), and between
    two neighbours of age t never lies more than 2 t / a.
    """

    def __init__(self) -> None:
        self._levels: list[deque[tuple[int, Key]]] = []  # by rank, each in order of age; at most 63
        self._count = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, key: Key) -> None:
        """Take the next member of the sequence."""
        number = self._count
        rank = (number & -number).bit_length() - 1 if number else _FOREVER
        while len(self._levels) <= rank:
            self._levels.append(deque())
        self._levels[rank].append((number, key))
        self._count += 1
        self._size += 1

    def next(self) -> tuple[Key, int]:
        """The member to give up next, for the past has most of its kind, and its rank."""
        ages = ((self._count - level[0][0]) / 2.0**rank if level else -1.0 for rank, level in enumerate(self._levels))
        rank = max(enumerate(ages), key=lambda pair: pair[1])[0]
        return self._levels[rank][0][1], rank

    def thin(self) -> Key:
        """Give up that member."""
        return self._pop(self.next()[1])

    def oldest(self) -> Key:
        """The oldest member that is left."""
        return self._levels[self._oldest_level()][0][1]

    def drop_oldest(self) -> Key:
        """Give up the oldest member."""
        return self._pop(self._oldest_level())

    def keep(self, wanted: Callable[[Key], bool]) -> None:
        """Give up all that are not wanted."""
        self._levels = [deque(pair for pair in level if wanted(pair[1])) for level in self._levels]
        self._size = sum(map(len, self._levels))

    def _oldest_level(self) -> int:
        return min((level[0][0], rank) for rank, level in enumerate(self._levels) if level)[1]

    def _pop(self, rank: int) -> Key:
        self._size -= 1
        return self._levels[rank].popleft()[1]


class Feature(Protocol):
    """An array that began at some time."""

    @property
    def start(self) -> float:
        """Seconds."""

    @property
    def features(self) -> NDArray[Any]:
        """What takes the room."""


Item = TypeVar("Item", bound=Feature)


class Kept(Generic[Item]):
    """Features of one kind by number or time, their size, and in which order they go.

    bytes: of those put with `bounded`. The same array may stand at several times, where nothing new was to be seen.
    """

    def __init__(self) -> None:
        self.items: dict[float, Item] = {}
        self.past: Thinning[float] = Thinning()  # of those put with `bounded`
        self.bytes = 0
        self._times: Counter[int] = Counter()  # how often each array is kept, by its id

    def put(self, key: float, item: Item, *, bounded: bool) -> None:
        """Keep one in place of what has the same key; bounded: it may have to go again."""
        old = self.items.get(key)
        self.items[key] = item
        if bounded:
            self._count(item)
            if old is None:
                self.past.add(key)
            else:
                self._discount(old)

    def spare(self, now: float) -> float:
        """How old the next to go is, in seconds halved by its rank; negative where it is the only one.

        As long as this is the same for two kinds, both are kept as densely at any age.
        """
        if len(self.past) < 2:
            return -1.0
        key, rank = self.past.next()
        return max(0.0, now - self.items[key].start) / 2.0**rank

    def thin(self) -> None:
        """Give up the next to go."""
        self._drop(self.past.thin())

    def expire(self, before: float) -> None:
        """Give up the oldest, as far as they began before that time; a few at once."""
        for _ in range(_EXPIRED_AT_ONCE):
            if not len(self.past) or self.items[self.past.oldest()].start >= before:
                return
            self._drop(self.past.drop_oldest())

    def keep(self, wanted: Callable[[Item], bool]) -> None:
        """Give up all that are not wanted."""
        bounded = len(self.past) > 0
        for key in [key for key, item in self.items.items() if not wanted(item)]:
            item = self.items.pop(key)
            if bounded:
                self._discount(item)
        self.past.keep(self.items.__contains__)

    def _drop(self, key: float) -> None:
        self._discount(self.items.pop(key))

    def _count(self, item: Item) -> None:
        array = id(item.features)
        self.bytes += _REPEATED_BYTES if self._times[array] else item.features.nbytes
        self._times[array] += 1

    def _discount(self, item: Item) -> None:
        array = id(item.features)
        self._times[array] -= 1
        if self._times[array]:
            self.bytes -= _REPEATED_BYTES
        else:
            del self._times[array]
            self.bytes -= item.features.nbytes
