"""Read by every Python process whose PYTHONPATH has this folder: the runtime that fails is one of the targets there."""

import faulty_runtime
from edgepress.targets import TARGETS

TARGETS["faulty"] = faulty_runtime
