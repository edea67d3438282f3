"""Graph -> Graph, one idea a file. Every pass keeps the meaning: `interpret` gives the same before and after."""
