"""Engines: served models behind one contract, and the agent that runs one on a lease."""
