"""The simulator beside real processes: the same requests, policy and engines, and how far the figures are apart."""
