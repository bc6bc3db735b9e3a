"""What every page shares: words for numbers, and drawings."""
