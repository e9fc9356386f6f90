"""How close edits with ISA are to edits with full attention."""
