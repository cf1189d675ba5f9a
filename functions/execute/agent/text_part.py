"""The text of one part as it arrives: in deltas, and as whole texts that overlap them. Pure.

A part may have megabytes and comes in thousands of deltas, so a delta must cost what it weighs: no step here copies
what was said before, but those that compare it with a whole text, which is as long.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Characters of deltas that become one piece: a list of every token would weigh ten times the text.
_PIECE = 64 * 1024


class _Pieces:
    """A text that only grows."""

    def __init__(self, text: str = "") -> None:
        self._whole = [text] if text else []
        self._tail: list[str] = []
        self._tail_size = 0
        self.size = len(text)

    def append(self, text: str) -> None:
        self._tail.append(text)
        self._tail_size += len(text)
        self.size += len(text)
        if self._tail_size >= _PIECE:
            self._whole.append("".join(self._tail))
            self._tail, self._tail_size = [], 0

    def text(self) -> str:
        # Kept as one piece: to ask again costs nothing.
        self._whole, self._tail, self._tail_size = ["".join((*self._whole, *self._tail))], [], 0
        return self._whole[0]


@dataclass
class TextPart:
    """What is known of one text part, and how much of it was said.

    `placed` is False when its next delta could stand anywhere: only a whole text says what follows.
    """

    message: str
    kind: str | None = None
    placed: bool = True
    ended: bool = False
    _said: _Pieces = field(default_factory=_Pieces)
    _new: list[str] = field(default_factory=list)
    #: Characters that are not said yet.
    unsaid: int = 0
    #: JavaScript cuts between the halves of a surrogate pair: the first half waits for the second.
    _half: str = ""
    _final: str | None = None

    def delta(self, text: str) -> None:
        """Go on with `text`."""
        if self._half:
            text, self._half = _paired(self._half + text), ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        if text:
            self._new.append(text)
            self.unsaid += len(text)

    def whole(self, text: str, *, ended: bool) -> bool:
        """Take all of the part so far, which may overlap, or be older than, what the deltas said.

        Returns:
            Whether something was lost: what differs from what was said follows (again) from `take`.
        """
        if self.ended and not ended:
            return False
        self.ended = self.ended or ended
        known = self._said.size + self.unsaid + len(self._half)
        # A late update is shorter than what is known; only the last one may be (it is trimmed).
        if not ended and len(text) <= known:
            return False
        said = self._said.text()
        same = _common(said, text)
        lost = same < min(len(said), len(text))
        if lost:
            self._said = _Pieces(text[:same])
        self._new = [text[same:]] if same < len(text) else []
        self.unsaid, self._half = len(text) - same, ""
        self._final = text if ended else None
        return lost

    def take(self) -> str:
        """What is to be said now; it counts as said."""
        new = "".join(self._new)
        self._new, self.unsaid = [], 0
        if new:
            self._said.append(new)
        return new

    def text(self) -> str:
        """All of it."""
        return self._final if self._final is not None else "".join((self._said.text(), *self._new))


def _paired(text: str) -> str:
    """`text` with surrogate pairs as the characters that they are; halves stay."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _common(one: str, other: str) -> int:
    """How many characters both begin with; each round looks at half as much as the one before."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
