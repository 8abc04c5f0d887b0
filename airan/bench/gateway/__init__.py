"""`airan bench gateway`: what a gateway adds to an engine's time, beside LiteLLM's proxy."""
