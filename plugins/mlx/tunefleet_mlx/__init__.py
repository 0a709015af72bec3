"""MLX and mlx-lm on Apple machines, and on Linux CPUs to try: training, and exports in its format."""
