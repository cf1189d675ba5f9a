"""Inputs of a task besides the workspace: attachments, definitions, MCP servers, a result schema."""
