"""The cancel function."""
