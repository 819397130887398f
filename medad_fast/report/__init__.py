"""Results to look at: tables, colours and one self-contained page."""
