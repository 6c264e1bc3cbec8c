"""Reads what celora's own HTTP routes show; each function reads for one tenant, in the tenant's words."""
