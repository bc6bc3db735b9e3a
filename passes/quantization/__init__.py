"""INT8 quantization: where quantizers go, what ranges they get, and the surgery that puts them there."""
