"""PUSCH: configuration, transmitter and receiver."""
