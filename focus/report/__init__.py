"""Reports: pictures of trajectories, pages, tables with intervals, and what the loggers receive."""
