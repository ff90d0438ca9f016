"""Whose a function is, and who may do what with it: pure."""
