"""Events of other systems over HTTP: their checks, and their way to the inbox."""
