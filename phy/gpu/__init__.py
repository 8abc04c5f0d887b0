"""Layer 1 on an NVIDIA GPU: our own CUDA kernels, their launchers and their NumPy twins.

Modules named `*_twin` do on NumPy arrays, operation by operation, what the kernel of that name
does on the device; they need no GPU and no CuPy, and are the kernels' oracle. Launchers allocate
nothing and wait for nothing, so that a slot's launches can be captured in a CUDA graph.
"""
