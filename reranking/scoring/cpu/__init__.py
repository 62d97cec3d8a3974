"""Kernels for CPUs, and which of them this machine runs fastest."""
