"""The shared channels' bit processing and sequences: TS 38.211, TS 38.212 and TS 38.214."""
