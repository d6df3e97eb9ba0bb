"""Handing finished images to the container engines of this machine: docker, podman, containerd."""
