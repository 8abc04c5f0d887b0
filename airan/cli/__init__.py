"""The `airan` command."""
