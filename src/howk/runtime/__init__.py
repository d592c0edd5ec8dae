"""Settings, wiring and the life of the process: what starts, what drains, and in which order."""
