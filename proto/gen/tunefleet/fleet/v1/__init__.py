"""Generated from `proto/tunefleet`. Do not edit; run `make proto`."""
