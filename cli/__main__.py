"""`python -m edgepress.cli` is `compress`."""

from . import main

main()
