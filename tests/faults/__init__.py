"""Faults done for real: every test breaks one thing of a living site and says what must hold."""
