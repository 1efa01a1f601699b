"""The runs table: its state, its rows and groups, its cells."""
