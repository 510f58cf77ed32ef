"""What a person at the terminal sees: progress, one sentence for an error, and never a secret."""
