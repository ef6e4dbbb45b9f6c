"""Programs that print a table; never tests."""
