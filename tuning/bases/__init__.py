"""Resolves, downloads, converts, quantizes and loads base models with their tokenizers."""
