"""Request traces as data: readers for public formats, and prompts that share prefixes as the trace does."""
