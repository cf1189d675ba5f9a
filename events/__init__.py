"""Events, commands, records and the ports that carry them. Imports nothing of `ocf.functions`."""
