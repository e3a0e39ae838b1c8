"""What a run's files say, once they are written: summaries and pictures."""
