"""Data for the demo and the tests: fetching, reading, windows and batches."""
