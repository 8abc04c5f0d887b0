"""LoRA adapters: small changes to a model's weights, one tenant's each, asked for as `base:adapter`."""
