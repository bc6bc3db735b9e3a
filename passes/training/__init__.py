"""Training: one loop for every pass that learns, on one process or several, which resumes exactly."""
