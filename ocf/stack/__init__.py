"""The embedded stack: the real servers and functions at small size, as children of one process (`ocf up`)."""
