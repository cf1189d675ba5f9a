"""What a task brings for its agent besides the workspace: attachments, definitions, MCP servers, a result schema."""
