"""The trainer service: holds the attempts it is told to hold, and nothing else."""
