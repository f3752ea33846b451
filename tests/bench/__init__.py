"""Measurements against named peers: ``python -m tests.bench`` prints the README's table."""
