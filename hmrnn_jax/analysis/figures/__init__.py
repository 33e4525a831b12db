"""Figures, a file a kind: PNG, or SVG where the path says so."""
