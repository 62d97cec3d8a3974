"""The demo: its questions, and the standard library's documentation as a corpus."""
