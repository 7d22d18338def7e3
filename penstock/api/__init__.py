"""What Penstock's processes say to each other: types, Redis keys and messages, protos, error shapes."""
