"""`pockengine demo`: real data, a network it has never been fitted to, one new person."""
