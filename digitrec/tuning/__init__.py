"""Everything that knows Ray: the trainable, the search, the session and the progress."""
