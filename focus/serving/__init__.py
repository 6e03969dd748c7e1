"""A policy with its crop loop, behind an OpenAI-compatible endpoint."""
