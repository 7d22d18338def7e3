"""Speed and cost, measured against a peer or a baseline in the same run."""
