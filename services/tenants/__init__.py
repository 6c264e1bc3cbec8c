"""Acts for tenants: limits and holds, keys, secrets, use and audit."""
