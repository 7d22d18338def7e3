"""What each endpoint is believed to have cached: chained hashes of text blocks, and who holds them."""
