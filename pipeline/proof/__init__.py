"""Proof: that every edge of the flow computes what the edge before it does, and where it does not."""
