"""One HTML file about a run, from tables alone."""
