"""Recordings of an execution's model calls: format, writing, reading (docs/reference/recording.md)."""
