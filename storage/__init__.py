"""Stores artifacts below one fsspec root, commits them by manifests, and confines paths."""
