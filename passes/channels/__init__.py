"""What must be cut together when a network is made narrower, and cutting it."""
