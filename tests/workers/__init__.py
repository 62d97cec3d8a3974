"""Workers: who is there, what they are given, and what is said of those that cannot."""
