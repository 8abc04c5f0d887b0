"""PDSCH: configuration, transmitter and receiver."""
