"""What a simulation costs."""
