"""Reading for training: an exact order, resumable on any number of workers."""
