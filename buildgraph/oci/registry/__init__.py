"""The distribution protocol: where registries are, who we are there, pulling and pushing."""
