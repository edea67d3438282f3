"""Back ends: from a plan to something that runs."""
