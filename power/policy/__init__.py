"""What readings come to; pure."""
