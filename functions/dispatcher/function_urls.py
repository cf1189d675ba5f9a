"""URLs of the functions: `FUNCTION_URLS`."""

from __future__ import annotations


def function_url(urls: str, function: str) -> str:
    """Return the URL of a function.

    Args:
        urls: A template with `{function}`, or `name=url` pairs separated by commas.
        function: Name of the function.

    Raises:
        ValueError: `urls` has no URL for this function.
    """
    if "=" not in urls.split("://", 1)[0]:
        return urls.replace("{function}", function)
    pairs = dict(pair.strip().split("=", 1) for pair in urls.split(","))
    try:
        return pairs[function]
    except KeyError:
        raise ValueError(f"FUNCTION_URLS: no URL for {function!r}") from None
