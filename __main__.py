"""`python -m edgepress`: the command `compress`, as launchers such as `torchrun -m` want it."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
