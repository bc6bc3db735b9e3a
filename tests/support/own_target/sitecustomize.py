"""Read by every Python process whose PYTHONPATH has this folder: a user's own runtime is one of the targets there."""

import plain_runtime
from edgepress.targets import TARGETS

TARGETS[plain_runtime.name] = plain_runtime
