"""airan: an edge AI-RAN site. `airan.core` is the bottom layer, the rest of the package the top."""
