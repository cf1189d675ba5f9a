"""The history function."""
