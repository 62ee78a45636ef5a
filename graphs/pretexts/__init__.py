"""Graph pretexts."""
