"""HTTP and WebSocket routes of the gateway, a module per resource."""
