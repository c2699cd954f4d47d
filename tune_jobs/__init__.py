"""Entry points for `ray job submit`: each a short record of one experiment."""
