"""Boxfiles: finding a workspace, reading YAML with positions, and the targets they declare."""
