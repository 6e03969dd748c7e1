"""Image files: opening and checking them, decoding them, and cutting views and crops out of them."""
