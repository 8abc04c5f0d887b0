"""A whole site under load, whose processes are killed one after the other."""
