"""The version of edgepress, in a place that every part may know."""

__version__ = "0.1.0"
