"""What may be kept as a user's file: rules of names and of contents, pure and without I/O."""
