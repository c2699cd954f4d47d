"""Ray clusters: one on this machine to practise on, jobs for any, files to start one elsewhere."""
