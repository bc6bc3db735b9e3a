"""Operators that are converted here and not by onnx2torch: `table` lists them."""
