"""Functions of the system, the gateway, the dispatcher, and what they share."""
