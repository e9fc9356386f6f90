"""Tables and pages of evaluated runs."""
