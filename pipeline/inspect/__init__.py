"""`compress inspect`: what is in a file, or a network, and what can be done to it."""
