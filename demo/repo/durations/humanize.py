"""From seconds to text."""


def humanize(seconds: int) -> str:
    """Return a text like `1h 30m` for a number of seconds."""
    hours = seconds // 3600
    minutes = seconds // 60
    rest = seconds % 60
    parts = [(hours, "h"), (minutes, "m"), (rest, "s")]
    return " ".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
