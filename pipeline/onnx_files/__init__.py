"""ONNX files that others wrote: checked, made harmless, brought into one normal form, and turned into networks."""
