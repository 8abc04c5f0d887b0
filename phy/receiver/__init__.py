"""Parts of a receiver: channel and noise estimation, equalisation."""
