"""Devices by name: devices.yaml, what is opened of it, and what is fed to them."""
