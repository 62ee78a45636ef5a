"""Text towers and text-side objectives."""
