"""What benchmarks.update_schemes is made of: choosing schemes, training with them, and tables."""
