"""Front ends: each turns a foreign model into a Graph, and lists what it cannot import."""
