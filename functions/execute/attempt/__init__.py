"""One attempt of an execution: lease, agent run, output, artifacts, terminal fact."""
