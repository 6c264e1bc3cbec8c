"""Reads a dataset file into a spool, with notes of its rows; a long ``.jsonl`` on all cores.

Copies of this process (forks.py) read such a file in blocks of whole lines, and only vouch for a block in which every
line is a good row of the format that the file began with. Any other block is read here, line by line, as a short file
is; so what is refused, and in which words, does not depend on who read first.
"""
