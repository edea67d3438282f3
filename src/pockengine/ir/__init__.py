"""The intermediate representation: types, operators, graphs, text, verifier, interpreter."""
