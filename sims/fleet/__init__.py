"""A discrete-event simulation of sites: the live planner over simulated GPUs, cells and tenants."""
