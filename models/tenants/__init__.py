"""Keeps the books of tenants: keys, limits, the ledger of their use, and the audit of changes."""
