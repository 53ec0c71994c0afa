"""Systems: the rows of a table, and what each costs."""
