"""The archive function."""
