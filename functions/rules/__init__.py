"""Rules, schedules and their templates: which event starts which task."""
