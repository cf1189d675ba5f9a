"""Options that describe the body of a request, and ids."""
