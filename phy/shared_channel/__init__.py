"""What PUSCH and PDSCH have in common: allocation, DM-RS, coding and resource mapping."""
