"""Figures drawn from saved results only: draw(results) -> Figure, or None where the results it needs are not there."""
