"""What a finished or half-finished study shows; needs neither Ray nor torch."""
