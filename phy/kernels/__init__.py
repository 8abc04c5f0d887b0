"""CUDA C++ sources of Layer 1; phy.gpu compiles and launches them."""
