"""Rollouts: the multi-turn crop loop, trajectories, and the engines that sample."""
