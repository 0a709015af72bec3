"""The API, one module per noun. Servicers translate; the core decides."""
