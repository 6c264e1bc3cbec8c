"""Answers chats with a base and its adapters that stay loaded, for trying models out; it is no serving engine."""
