"""Notifies programs by webhooks and people by their channels."""
