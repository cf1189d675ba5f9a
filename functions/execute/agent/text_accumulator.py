"""Text of one message part as it arrives: in deltas, and as whole texts that overlap them. Pure.

A part may have megabytes and arrive in thousands of deltas, so the cost of a delta must depend on its own length:
nothing here copies earlier text, except the comparison with a whole text of about the same length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Characters of deltas joined into one piece: a list of every token would take ten times the memory of the text.
_PIECE = 64 * 1024


class _Pieces:
    """A text that only grows."""

    def __init__(self, text: str = "") -> None:
        self._whole = [text] if text else []
        self._tail: list[str] = []
        self._tail_size = 0
        self.size = len(text)

    def append(self, text: str) -> None:
        """Append `text`."""
        self._tail.append(text)
        self._tail_size += len(text)
        self.size += len(text)
        if self._tail_size >= _PIECE:
            self._whole.append("".join(self._tail))
            self._tail, self._tail_size = [], 0

    def text(self) -> str:
        # Stored as one piece, so that the next call costs nothing.
        """Return the whole text."""
        self._whole, self._tail, self._tail_size = ["".join((*self._whole, *self._tail))], [], 0
        return self._whole[0]


@dataclass
class TextPart:
    """Known text of one part, and how much of it is published.

    `placed` is False when the position of the next delta is unknown: only a whole text shows what follows.
    """

    message: str
    kind: str | None = None
    placed: bool = True
    ended: bool = False
    _published: _Pieces = field(default_factory=_Pieces)
    _new: list[str] = field(default_factory=list)
    #: Characters that are not published yet.
    unpublished: int = 0
    #: JavaScript may cut between the halves of a surrogate pair: the first half waits for the second.
    _lone_surrogate: str = ""
    _final: str | None = None

    def delta(self, text: str) -> None:
        """Append `text`."""
        if self._lone_surrogate:
            text, self._lone_surrogate = _join_surrogates(self._lone_surrogate + text), ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._lone_surrogate = text[:-1], text[-1]
        if text:
            self._new.append(text)
            self.unpublished += len(text)

    def whole(self, text: str, *, ended: bool) -> bool:
        """Take all of the part so far, which may overlap the deltas or be older than they are.

        Returns:
            Whether text was lost: then `take` returns (again) what differs from the published text.
        """
        if self.ended and not ended:
            return False
        self.ended = self.ended or ended
        known = self._published.size + self.unpublished + len(self._lone_surrogate)
        # A late update is shorter than the known text; only the last one may be shorter (it is trimmed).
        if not ended and len(text) <= known:
            return False
        published = self._published.text()
        same = _common_prefix(published, text)
        lost = same < min(len(published), len(text))
        if lost:
            self._published = _Pieces(text[:same])
        self._new = [text[same:]] if same < len(text) else []
        self.unpublished, self._lone_surrogate = len(text) - same, ""
        self._final = text if ended else None
        return lost

    def take(self) -> str:
        """Return the unpublished text and count it as published."""
        new = "".join(self._new)
        self._new, self.unpublished = [], 0
        if new:
            self._published.append(new)
        return new

    def drop(self) -> None:
        """Forget the text."""
        self._published, self._new, self.unpublished = _Pieces(), [], 0
        self._lone_surrogate, self._final = "", None

    def text(self) -> str:
        """Return the whole text."""
        return self._final if self._final is not None else "".join((self._published.text(), *self._new))


def _join_surrogates(text: str) -> str:
    """Return `text` with surrogate pairs joined to characters; lone halves stay."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _common_prefix(one: str, other: str) -> int:
    """Return the length of the common prefix, by bisection."""
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
