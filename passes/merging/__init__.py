"""The workshop of `tokens`: which tokens a vision transformer can do without, dropped and merged between its blocks."""
