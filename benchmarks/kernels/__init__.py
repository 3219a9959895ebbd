"""Measures the paged kernels beside what else could do their work."""
