"""The execute function: one agent per execution, watched from its start to its terminal event."""
