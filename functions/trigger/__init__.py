"""The trigger function: events of other systems to tasks."""
