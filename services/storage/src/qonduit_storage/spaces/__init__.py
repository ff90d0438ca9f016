"""Users' files: flat spaces of names, each pointing at content."""
