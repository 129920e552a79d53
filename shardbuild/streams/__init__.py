"""Iterators of samples."""
