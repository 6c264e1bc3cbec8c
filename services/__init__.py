"""Offers the operations on jobs, workers, schedules, champions and datasets to people and programs.

The command line, the tasks and the HTTP room call these functions. The modules in ``__all__`` are promised to programs,
each with the functions of its own ``__all__``; docs/howto/python.md describes them. A module is loaded at its import,
so that a program that submits jobs does not load the rest.
"""

__all__ = ["champions", "datasets", "jobs", "schedules", "workers"]  # pyright: ignore[reportUnsupportedDunderAll]
