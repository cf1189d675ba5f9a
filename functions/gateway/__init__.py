"""The REST gateway: HTTP and WebSocket in front of the bus. It speaks events and reads state, nothing else."""
