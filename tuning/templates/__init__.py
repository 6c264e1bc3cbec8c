"""Renders rows to text: chat templates, tool calls and the tokens that carry loss."""
