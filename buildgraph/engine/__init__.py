"""Running a graph: resolving, scheduling, executing, delivering."""
