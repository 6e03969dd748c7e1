"""What a run looked like: trajectories as pictures, one page per run, tables with intervals, and what the loggers receive."""
