"""Stages, nodes, lowering, keys and plans: pure functions of values."""
