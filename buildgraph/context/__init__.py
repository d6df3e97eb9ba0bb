"""Build contexts: ignore rules, walking and hashing files."""
