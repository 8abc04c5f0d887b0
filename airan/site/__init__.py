"""Composition of one site: turns the configuration into running, watched processes."""
