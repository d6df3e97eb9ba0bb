"""Smoke tests: services are started from images, checks are made on them, and a verdict is kept."""
