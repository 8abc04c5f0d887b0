"""Benches of Layer 1: speed, link curves, 3GPP's requirement points; Sionna as the peer."""
