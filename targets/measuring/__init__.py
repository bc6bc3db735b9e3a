"""Measuring on a device: launches in turns, latencies with their uncertainty, and the state of the machine."""
