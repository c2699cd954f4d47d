"""Command line: options, commands, what they print."""
