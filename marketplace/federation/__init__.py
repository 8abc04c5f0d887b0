"""Peers that run the same API: who they are, what may go to them, and by which way it came."""
