"""The coordinator: leads the federation, decides by the gate and writes the bundle."""
