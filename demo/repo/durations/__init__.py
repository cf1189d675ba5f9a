"""Durations the way people write them."""

from durations.humanize import humanize
from durations.parse import parse

__all__ = ["humanize", "parse"]
