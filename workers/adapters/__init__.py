"""What each engine calls its metrics and events, translated into one vocabulary."""
