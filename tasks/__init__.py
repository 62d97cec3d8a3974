"""What only Prefect can do: steps as tasks, progress, artifacts, assets, tags, events."""
