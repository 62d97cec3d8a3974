"""Side-by-side measurements against LanceDB's and sentence-transformers' own classes."""
