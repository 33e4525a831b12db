"""The networks (Flax linen)."""
