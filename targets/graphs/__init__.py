"""ONNX graphs as runtimes see them: what they fuse, refuse, compute in float, and how much they multiply."""
