"""The server service: holds the deployments it is told to hold, on engines they share."""
