"""Data sets from arrays, files and folders, in batches; and the demo's recordings."""
