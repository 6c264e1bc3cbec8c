"""Runs the rounds of an installation: the tasks of beat call these functions at intervals.

Each round reads the record, changes it in short transactions, and sends messages after the commit. Two rounds of one
kind may run at once, and a round may die at any point; the next round completes its work.
"""
