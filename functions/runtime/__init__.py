"""Processes: entry points, the composition root, the ASGI application, start and stop."""
