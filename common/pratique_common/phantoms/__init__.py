"""Sources of data without any patient."""
