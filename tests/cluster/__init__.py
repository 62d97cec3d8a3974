"""Real Ray and Dask clusters, started by their own commands: `make test-cluster`."""
