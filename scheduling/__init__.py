"""Pure policy: which job next, where, why not yet; which failure gets which rule."""
