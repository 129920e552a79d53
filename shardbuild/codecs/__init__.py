"""Bytes to objects and back, by extension."""
