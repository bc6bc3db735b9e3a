"""The gate: is the candidate as small, as right and as fast as the baseline, on this device, beyond noise?"""
