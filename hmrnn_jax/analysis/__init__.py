"""What the models discovered: boundaries, segments, figures, baselines (numpy, matplotlib)."""
