"""Questions about images: the canonical record, the embedded scenes, and the Lightning data module."""
