"""Knows what a dead builder leaves on the machine; must not know how any of it was made."""

from __future__ import annotations

from buildgraph.sandbox import cgroup, network_records


def sweep_leftovers() -> int:
    """Remove what builders that were killed have left and return how much that was.

    Control groups and what their ways out changed on the host: all else ends with the processes.
    Safe beside living builders, cheap where there is nothing, never raises.
    """
    return cgroup.sweep_dead() + network_records.sweep_leftovers()
