"""`compress profile`: models, devices, and how long each takes on each."""
