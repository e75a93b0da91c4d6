"""Versioned world-minority reference sets: recipes and indices, never images."""
