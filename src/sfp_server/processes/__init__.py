"""Composition roots of the processes that serve no HTTP: `dispatch.py`, `broker.py`, `deliver.py`.

Each is imported only by its own process, reads the secrets that it needs and nothing else, and returns after SIGTERM or
SIGINT.
"""
