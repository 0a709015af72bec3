"""MLX and mlx-lm on Apple machines, and on Linux CPUs to try: exports in its format."""
