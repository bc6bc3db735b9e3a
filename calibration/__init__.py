"""Data that decides numbers: sample sources, metrics, activation ranges, quantization grids."""
