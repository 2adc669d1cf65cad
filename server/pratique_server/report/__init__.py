"""The report: its content as plain data, its figures and its page."""
