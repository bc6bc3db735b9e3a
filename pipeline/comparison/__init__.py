"""Comparison: many models on many devices on one page, made from their records alone."""
