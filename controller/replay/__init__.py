"""Open-loop load from traces against any OpenAI server, and what came back, measured."""
