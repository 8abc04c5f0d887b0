"""A trace of requests replayed against the real marketplace while its lease is revoked."""
