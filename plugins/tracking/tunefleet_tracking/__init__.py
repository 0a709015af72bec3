"""Tells the numbers of training runs to the trackers that people use, each with its own library."""
