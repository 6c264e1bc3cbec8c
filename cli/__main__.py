"""Runs the ``celora`` command as ``python -m celora.cli``, where no script of that name is on the path."""

from .app import main

main()
