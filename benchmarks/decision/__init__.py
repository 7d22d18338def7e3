"""What a routing decision costs, and what the prefix index keeps."""
