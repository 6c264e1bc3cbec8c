"""Decides, by pure functions, which job runs next, where, and why not yet; and which failure gets which rule."""
