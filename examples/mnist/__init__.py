"""Handwritten digits of MNIST at 32x32 pixels: ten classes, where 64 patches of a transformer are worth saving on."""
