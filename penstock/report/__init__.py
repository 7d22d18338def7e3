"""How well requests were served: outcomes, targets, figures and drawings, for replays and simulations alike."""
