"""The library of target kinds: turns a target and its rule into images to build."""
