"""What tunefleet is tested with, shipped so that others can test with it too."""
