"""Sweeps: settings on stored scores, chosen and told honestly."""
