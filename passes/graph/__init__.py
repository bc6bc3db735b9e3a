"""The canonical graph of a network, whoever works on it: captured, folded, run and looked at."""
