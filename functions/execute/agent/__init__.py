"""OpenCode: its server, configuration, HTTP API and the translation of its events to chunks."""
