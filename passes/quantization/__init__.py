"""INT8 quantization: where quantizers go, what ranges they get, and the surgery that puts them there."""

import logging

# Brevitas asks torch for its extension builder, which warns of a missing GPU that nobody asked for.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
