"""The dispatcher: JetStream consumers to HTTP POSTs of CloudEvents (ADR 0001)."""
