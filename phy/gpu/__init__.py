"""Layer 1 on an NVIDIA GPU. Nothing here is imported unless a GPU is used."""
