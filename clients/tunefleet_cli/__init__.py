"""The terminal client: `tunefleet <noun> <verb>`.

Start reading at `main.py`. Commands live in `commands/`, one module per noun;
everything that is printed goes through `output/`, which alone imports rich.
"""
