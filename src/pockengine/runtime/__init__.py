"""What a device needs: load a program, step, evaluate, predict, read weights. NumPy is enough."""
