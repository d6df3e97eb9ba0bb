"""Knows the name of a command whose code stands beside that of `login`; must not know what it does.
"""

from buildgraph.cli.login import logout as command

__all__ = ["command"]
