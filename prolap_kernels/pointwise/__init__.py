"""Losses of matched rows: no pairs, O(N D)."""
