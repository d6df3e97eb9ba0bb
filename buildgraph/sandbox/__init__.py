"""A container described as data and started by direct system calls."""
