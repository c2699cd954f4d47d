"""The study directory: folders, lock, arrays, stacks and tables."""
