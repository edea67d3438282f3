"""Graph -> Graph, one idea a file. Every pass keeps what `interpret` gives."""
