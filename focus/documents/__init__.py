"""Questions from your own pictures and documents: read words, ask about them, keep what can be checked."""
