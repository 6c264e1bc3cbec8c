"""Does the work of OpenAI's contract: files, and jobs made from requests of its form."""
