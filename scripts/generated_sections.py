"""The parts of a page that a program writes: between `<!-- generated: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from pathlib import Path


def between(page: Path, name: str, text: str) -> str:
    """What `page` is with `text` as its part `name`.

    Raises:
        ValueError: the page has no such part.
    """
    return replaced(page.read_text(), name, text, page.name)


def replaced(written: str, name: str, text: str, page: str) -> str:
    """The same for the text of a page that is called `page`."""
    marks = rf"(<!-- generated: {re.escape(name)} -->\n).*?(<!-- end -->)"
    found, count = re.subn(marks, lambda m: f"{m[1]}{text.strip()}\n{m[2]}", written, count=1, flags=re.DOTALL)
    if not count:
        raise ValueError(f"{page} has no part `<!-- generated: {name} -->` that ends with `<!-- end -->`")
    return found
