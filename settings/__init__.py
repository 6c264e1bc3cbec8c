"""Defines the settings of an installation, the catalogues of GPUs and base models, secrets by name, and failpoints."""
