"""The queue: which jobs wait, in which lanes, and why."""
