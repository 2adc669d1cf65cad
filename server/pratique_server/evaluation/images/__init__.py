"""Quality of synthetic images against real ones: likeness, usefulness, diversity, nearness."""
