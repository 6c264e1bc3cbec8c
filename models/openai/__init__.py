"""Holds the rows of OpenAI's contract: files, and the requests that made jobs."""
