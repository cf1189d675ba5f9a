"""The session function."""
