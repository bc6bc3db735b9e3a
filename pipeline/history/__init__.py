"""History: what the runs of each commit measured, kept in one file of lines, and the commits that changed it."""
