"""Where in a file the line of each name begins, in 16 bytes a name: the index of a manifest of millions."""

from array import array

import numpy as np

__all__ = ["LineIndex"]


class LineIndex:
    """Names and the starts of their lines; of several lines of a name the last added counts.

    Names are known by their hash alone: who reads the line has to look whether it is that of the name.

    >>> index = LineIndex()
    >>> for name, start in (("a", 0), ("b", 10), ("a", 20)):
    ...     index.add(name, start)
    >>> index.find("a"), index.find("b"), index.find("c"), len(index), index.starts()
    (20, 10, None, 2, [10, 20])
    """

    def __init__(self) -> None:
        self._new = array("q"), array("q")
        self._hashes = self._starts = np.empty(0, np.int64)

    def add(self, name: str, start: int) -> None:
        self._new[0].append(hash(name))
        self._new[1].append(start)

    def __len__(self) -> int:
        self._sort()
        return len(self._hashes)

    def find(self, name: str) -> int | None:
        """Where the line begins, or None."""
        self._sort()
        place = int(np.searchsorted(self._hashes, hash(name)))
        found = place < len(self._hashes) and self._hashes[place] == hash(name)
        return int(self._starts[place]) if found else None

    def starts(self) -> list[int]:
        """Of the lines that count, in the order of the file."""
        self._sort()
        return np.sort(self._starts).tolist()

    def _sort(self) -> None:
        """Takes in what was added."""
        if not self._new[0]:
            return
        hashes, starts = (
            np.concatenate([old, np.frombuffer(new, np.int64)])
            for old, new in zip((self._hashes, self._starts), self._new, strict=True)
        )
        order = np.argsort(hashes, kind="stable")
        last = np.append(hashes[order][1:] != hashes[order][:-1], True)
        self._hashes, self._starts = hashes[order][last], starts[order][last]
        self._new = array("q"), array("q")
