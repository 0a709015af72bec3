"""Everything that reaches the terminal. The only package that imports rich.

Data goes to stdout, everything else to stderr. People at a terminal get
colour and a live view, pipes get plain lines, programs get JSON.
"""

from tunefleet_cli.output.output import Mode, Output, open_output
from tunefleet_cli.output.table import Column, Table

__all__ = ["Column", "Mode", "Output", "Table", "open_output"]
