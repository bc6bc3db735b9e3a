"""What `l2` is made of: transforms of weights, the count of their codes, and the training under both."""
