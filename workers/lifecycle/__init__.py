"""Manages the life of a worker process: registration, heartbeat, cordon, consumption."""
