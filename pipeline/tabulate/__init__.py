"""`compress tabulate`: what a network's layers take on a device, measured in smaller versions of it."""
