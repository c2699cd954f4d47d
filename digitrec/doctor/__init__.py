"""What a machine and a cluster have, what is wrong, and what to do."""
