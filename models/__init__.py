"""Stores the record: tables, states, transitions, reads, migrations. The SQL row is the truth about a job."""
