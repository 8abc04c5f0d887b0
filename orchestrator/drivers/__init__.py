"""Drivers: what the orchestrator may ask of a GPU node, and the nodes there are."""
