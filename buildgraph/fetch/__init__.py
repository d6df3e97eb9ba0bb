"""Brings files from other machines: knows git repositories and files of servers; no image."""
