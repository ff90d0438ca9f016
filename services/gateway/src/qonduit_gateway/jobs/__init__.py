"""What a job is and how it moves: pure, without input, output or a clock."""
