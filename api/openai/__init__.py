"""Serves the routes of OpenAI's fine-tuning API below ``/v1``, in the form that its unmodified clients read."""
