"""The commands of `rescore`, grouped by what they are about."""
