"""Does a plan change with its context, and to the right one? Models measured on pairs."""
