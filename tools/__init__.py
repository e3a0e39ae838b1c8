"""What makes test data and models; not in the wheel."""
