"""OpenCode: its server, its configuration, its HTTP API, and the translation of its events to chunks."""
