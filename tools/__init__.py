"""Tools that make models and test data; not in the wheel."""
