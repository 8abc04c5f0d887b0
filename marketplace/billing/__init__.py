"""What things cost, what may be spent, and what a tenant is told of it."""
