"""Attaches, writes, loads, describes and merges LoRA adapters."""
