"""What if: a stored run's candidates ranked by other settings, measured, and chosen honestly."""
