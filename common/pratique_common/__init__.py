"""What every site agrees on: the study, the formats, the messages and the generators."""

__version__ = "0.1.0"
