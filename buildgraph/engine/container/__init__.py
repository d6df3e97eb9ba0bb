"""Knows how an image becomes a running container; must not know who wants it to run."""
