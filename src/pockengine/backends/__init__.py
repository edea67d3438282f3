"""From a planned job to a program that runs: one folder a back end."""
