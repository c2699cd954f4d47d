"""The live page: a study while it runs, served on this machine."""
