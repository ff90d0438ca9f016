"""What a function is and which ones are accepted: pure."""
