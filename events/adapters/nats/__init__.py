"""NATS JetStream: streams, key-value buckets, output writer, credentials."""
