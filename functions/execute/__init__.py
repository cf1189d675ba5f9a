"""The execute function: one OpenCode run per event, in its own sandboxed process tree."""
