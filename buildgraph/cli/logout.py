"""Knows the name of the command that undoes `login`; must not know how that is done."""

from buildgraph.cli.login import logout as command

__all__ = ["command"]
