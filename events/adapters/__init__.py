"""Implementations of `ocf.events.ports`: NATS, S3, memory."""
