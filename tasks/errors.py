"""The errors and exit codes that the command line answers with."""

from reranking.errors import (
    EXIT_DONE,
    EXIT_REJECTS,
    EXIT_UNEXPECTED,
    ConfigError,
    GateFailed,
    RescoreError,
)

__all__ = [
    "EXIT_DONE",
    "EXIT_REJECTS",
    "EXIT_UNEXPECTED",
    "ConfigError",
    "GateFailed",
    "RescoreError",
]
