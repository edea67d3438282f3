"""The intermediate representation: types, operators, graphs, their text, their verifier and interpreter."""
