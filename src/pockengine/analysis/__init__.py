"""What a program would bring and what it costs: asks the pipeline, measures, reports."""
