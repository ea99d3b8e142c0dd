"""What made the bundled judge, from recorded traces and a seed."""
