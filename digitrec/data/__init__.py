"""Sources of digits: read, checked, split and scaled."""
