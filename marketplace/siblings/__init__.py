"""Several gateways on one database: who they are, and what each has under way."""
