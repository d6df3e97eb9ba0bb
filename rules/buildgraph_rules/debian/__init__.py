"""The `debian` rule: a base image from a list of Debian packages, without debootstrap."""
