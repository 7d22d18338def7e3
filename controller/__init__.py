"""The control-plane process, the command line and what a person sees."""
