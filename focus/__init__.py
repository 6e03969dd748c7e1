"""focus: train a multimodal agent to look at what it zooms into (LFPC, arXiv 2603.27494)."""
