"""A real vLLM engine on CPU as a child process, in an environment of its own."""
