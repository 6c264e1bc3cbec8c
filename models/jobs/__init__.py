"""Changes a job's row: the transitions and the steps that they share."""
