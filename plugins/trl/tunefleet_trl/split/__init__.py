"""Runs whose weights are split over processes: what their trainers share, and FSDP2.

Other backends build on it.
"""
