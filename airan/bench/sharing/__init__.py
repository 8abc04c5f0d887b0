"""Layer 1 and a language model on one GPU, under every way to share it."""
