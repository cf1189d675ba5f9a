"""Model of a task: resolution, prices, and the offline scripted model."""
