"""Forms batches from prepared arrays, and computes their loss."""
