"""Faults on purpose: every part of the system broken in every way, under load, and one checker of what is left."""
