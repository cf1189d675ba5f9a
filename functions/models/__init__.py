"""Which model runs a task: resolution, prices, and the offline scripted model."""
