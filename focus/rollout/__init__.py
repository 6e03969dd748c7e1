"""The multi-turn crop loop: trajectories, the tool, and the engines that sample."""
