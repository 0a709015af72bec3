"""The processes of a fleet beside its coordinator: trainer, server and gateway."""
