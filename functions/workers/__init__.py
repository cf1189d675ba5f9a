"""Several workers below one parent, each a process for one delivery at a time (ADR 0010)."""
