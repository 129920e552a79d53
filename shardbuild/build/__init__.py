"""Conversion on Dask: plans, tasks, and what runs them.

Nothing is imported here: a worker process loads what its tasks need, and no more.
"""
