"""The driver of a search, the one process that plans and writes it: its controller, measurements and journal."""
