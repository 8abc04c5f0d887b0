"""Durable state of the marketplace: tenants, keys, jobs, usage and events."""
