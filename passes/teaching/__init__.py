"""Teachers: what of them is compared, and how unlike them a network is."""
