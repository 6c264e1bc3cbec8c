"""Fetches and reads data files: local, remote or from a hub; JSON lines, arrays, CSV, Parquet, gzip."""
