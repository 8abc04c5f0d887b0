"""LoRA adapters: small changes to a model's weights, asked for as `base:adapter`."""
