"""Measures a running OpenAI server, and fits the step-time model to what it does."""
