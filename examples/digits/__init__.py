"""Digits: the embedded default that `compress demo` runs."""
