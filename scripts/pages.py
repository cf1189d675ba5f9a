"""The parts of a page that a program writes: between `<!-- generated: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from pathlib import Path


def between(page: Path, name: str, text: str) -> str:
    """What `page` is with `text` as its part `name`.

    Raises:
        ValueError: the page has no such part.
    """
    marks = rf"(<!-- generated: {re.escape(name)} -->\n).*?(<!-- end -->)"
    found, count = re.subn(marks, lambda m: f"{m[1]}{text.strip()}\n{m[2]}", page.read_text(), count=1, flags=re.DOTALL)
    if not count:
        raise ValueError(f"{page.name} has no part `<!-- generated: {name} -->` that ends with `<!-- end -->`")
    return found
